// The engine on a GPU, as host code sees it: no CUDA header is needed to include this. Compiled once, by nvcc, in cuda/backend.cu (target blockattn::cuda).
//
// Keys and values lie on the device in the layout of core/kv.hpp. Attention reads cached blocks in place and
// rotates the queries to each of them, as on the CPU. `fast` arithmetic multiplies bfloat16 and sums in float32; `f32` is float32 throughout.
// Calls from several threads are served one after the other. Errors of the device are cuda_error, with the operation's name.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockattn/core/candidates.hpp"
#include "blockattn/core/dtype.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/kv.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/kernels/kernel_table.hpp"

namespace blockattn::inline v0 {

namespace cuda {

/// One GPU.
struct device_facts {
  int number = 0;
  std::string name;
  int capability = 0;  ///< 10 * major + minor, e.g. 90
  index_t multiprocessors = 0;
  index_t memory_bytes = 0;
  index_t free_bytes = 0;
};

/// What was found. `problem` says why there is no device: no driver, too old a driver, none visible.
struct device_report {
  std::vector<device_facts> devices;
  int driver = 0, runtime = 0;  ///< CUDA versions, 1000 * major + 10 * minor
  std::string problem;
};

[[nodiscard]] device_report find_devices();

/// A RoPE: pair i turns by `frequency[i]` radians a position; see ops/rotary.hpp.
struct rope_facts {
  rope_pairing pairing = rope_pairing::adjacent;
  index_t channels = 0;  ///< the first so many of a head
  double magnitude = 1;
  std::vector<double> frequency;  ///< [channels / 2]
};

/// Weights of a layer in host memory; what is nullptr or empty isn't there. Shapes as in model/weights.hpp.
struct layer_facts {
  weight_view query, key, value, output, gate, up, down;
  const float *query_bias = nullptr, *key_bias = nullptr, *value_bias = nullptr;
  const float *query_norm = nullptr, *key_norm = nullptr;
  const float *attention_norm = nullptr, *attention_post_norm = nullptr, *feed_forward_norm = nullptr, *feed_forward_post_norm = nullptr;
  index_t rope = -1;   ///< index in network_facts::ropes, -1: none
  index_t window = 0;  ///< 0: all
};

/// A network: shapes, constants, weights. Pointers need to live for the engine's constructor only.
struct network_facts {
  index_t width = 0, heads = 0, kv_heads = 0, head_dim = 0, feed_forward = 0, vocabulary = 0;
  float norm_epsilon = 1e-5F, attention_scale = 1, attention_soft_cap = 0, logit_soft_cap = 0, embedding_scale = 1;
  bool norm_whole = false;  ///< Q/K norms go over all heads of a token together
  bool gelu = false;        ///< GELU (tanh form) instead of SiLU
  std::vector<rope_facts> ropes;
  std::vector<layer_facts> layers;
  weight_view embedding, head;
  const float* norm = nullptr;
  bool synthetic = false;  ///< weights are made on the device from a seed, bfloat16; the views give shapes only
};

/// A run of tokens whose keys and values lie on the device: [first, first + tokens) of an allocation for `stride` tokens that starts at `base`.
struct segment {
  const std::byte* base = nullptr;
  index_t stride = 0, first = 0, tokens = 0;
  double rotation = 0;   ///< positions that its keys' rotation lacks
  index_t position = 0;  ///< of its first token in the prompt
  segment_scaling scaling = {};  ///< other than plain: all segments with it in a run have that of the first of them
};

/// Tokens at `position` and after. Their keys and values are written to tokens tail_first, … of the tail, whose pieces (these tokens included) are among the segments.
struct forward_run {
  std::span<const token_id> ids;
  index_t position = 0;
  std::span<const segment> segments;
  std::byte* tail = nullptr;
  index_t tail_stride = 0, tail_first = 0;
  index_t rows = 0;  ///< hidden states wanted: of the last so many tokens
  std::span<const double> rotations = {};  ///< [T] where RoPE places the tokens; empty: at their positions
};

struct engine_options {
  int device = 0;
  arithmetic kind = arithmetic::fast;
  kv_types kv;
  index_t memory_limit = 0;  ///< bytes of device memory that weights, keys and values and intermediate values may take in all; 0: what is free
  /// So many layers, the first ones, have their weights on the device; those of the others lie in pinned host memory and are copied to the device for each use, two layers at a
  /// time. All is computed on the device, to the same bits. Not set, or more than there are: all.
  std::optional<index_t> layers = {};
  bool graphs = true;  ///< repeat the launches of a step of one token as a CUDA graph where they are those of the step before; to the same bits
};

/// What the engine holds on the device, in bytes. `weights`: with the buffers of layers that aren't there to stay.
struct memory_use {
  index_t weights = 0, workspace = 0, kv = 0, free = 0, total = 0;
  index_t host_weights = 0;  ///< pinned, in host memory
  index_t layers = 0;        ///< whose weights stay on the device
};

class engine final : public kv_memory {
 public:
  /// Uploads the weights. Throws cuda_error; out of memory (cuda_memory_error) says what was needed and what was free.
  engine(const network_facts& network, const engine_options& options);
  ~engine() override;
  engine(const engine&) = delete;
  engine& operator=(const engine&) = delete;

  /// Device memory for keys and values; ordered with everything else this engine does. It may outlive the engine; blocks and tails in it may not.
  [[nodiscard]] std::shared_ptr<std::byte> allocate(index_t bytes) override;
  /// Host memory that the bus reads at full speed. Throws cuda_error.
  [[nodiscard]] std::shared_ptr<std::byte> allocate_pinned(index_t bytes);
  [[nodiscard]] std::shared_ptr<std::byte> allocate_host(index_t bytes) override { return allocate_pinned(bytes); }
  /// Copies from and to the host have been made when it returns; they run beside kernels of later calls.
  void copy(std::byte* to, index_t to_step, const std::byte* from, index_t from_step, index_t bytes, index_t count, direction way) override;

  /// Runs the tokens through all layers; hidden states [rows, D] after the last norm go to host memory.
  void forward(const forward_run& run, float* hidden);
  /// Logits [rows, V] of hidden states [rows, D], both in host memory.
  void project(const float* hidden, index_t rows, float* logits);
  /// Of the logits of one hidden state [D] in host memory, those asked for, in order; only they leave the device. request.count: 1 to most_candidates.
  [[nodiscard]] std::vector<token_candidate> highest(const float* hidden, const candidate_request& request);
  static constexpr index_t most_candidates = 2048;

  [[nodiscard]] const device_facts& device() const;
  [[nodiscard]] memory_use memory() const;
  /// How many steps of one token were one launch of a graph.
  [[nodiscard]] index_t repeated_steps() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace cuda
}  // namespace blockattn::inline v0
