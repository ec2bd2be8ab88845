// A model at run time: one file, opened once, its family hidden. What applications hold.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "blockattn/core/fingerprint.hpp"
#include "blockattn/core/log.hpp"
#include "blockattn/io/gguf_fingerprint.hpp"
#include "blockattn/io/open_checkpoint.hpp"
#include "blockattn/model/forward.hpp"
#include "blockattn/model/families.hpp"
#include "blockattn/ops/key_rotation.hpp"
#include "blockattn/ops/kv_conversion.hpp"
#include "blockattn/text/chat_template.hpp"
#include "blockattn/text/tokenizer.hpp"

namespace blockattn::inline v0 {

enum class precision {
  exact,  ///< float32 throughout: the reference
  fast    ///< bfloat16 products where the processor has them, float32 elsewhere: the default
};

/// Where a model computes and keeps keys and values.
enum class compute_device {
  cpu,
  cuda,      ///< a GPU; an error where there is none, or where the program was built without BLOCKATTN_CUDA
  automatic  ///< a GPU if one is there and takes the model, else the CPU, with a warning that says why
};

/// A LoRA adapter file and how strongly it is applied; 1 as trained, 0 not at all.
struct adapter_file {
  std::filesystem::path path;
  float scale = 1;
};

struct load_options {
  precision compute = precision::fast;
  std::optional<kv_types> kv = {};  ///< types of cached keys and values: f32, f16, bf16, q8_0, q5_h, q4_0, q4_h (q5_h and q4_h not on a GPU); by default f32 for exact, f16 for fast (bf16 on a GPU)
  log_sink log = {};        ///< warnings of the model and of what uses it
  std::vector<adapter_file> adapters = {};  ///< applied one on top of the other
  bool repack = true;   ///< keep a copy of quantised weights in the order of the kernels, made as weights are first used; else they are reordered at each use
  compute_device device = compute_device::cpu;
  int gpu = 0;  ///< number of the GPU
  index_t gpu_bytes = 0;  ///< of its memory that the model may take with all its keys and values; 0: what is free
  /// So many layers, the first ones, have their weights on the GPU; the others' stay in host memory, pinned, and go over the bus for each use. Keys, values and all computing are on
  /// the GPU, the bits are the same. Not set, or more than there are: all.
  std::optional<index_t> gpu_layers = {};
  index_t context = 0;  ///< tokens of the longest prompt and answer wanted, 0: what the file says; matters where RoPE changes with it (longrope)
  std::optional<dtype> quantize = {};     ///< quantise float weights at load: q8_0 or q4_0 (io/quantize.hpp); they then lie in memory, not in the mapped file
  std::filesystem::path quantized_file = {};  ///< with quantize: also written there, as a GGUF file, which is mapped then instead of keeping the weights in memory
  progress_callback progress = {};        ///< of quantising, in bytes; false cancels
};

/// A handle to an immutable model: cheap to copy, shared by any number of threads and sessions. The file stays mapped while a handle lives.
class model {
 public:
  /// `path`: a GGUF file (of a model in parts: any), or a folder with config.json and safetensors files. Maps files and reads metadata and norms; other weights are read
  /// when they are first used. Throws io_error, format_error, argument_error.
  [[nodiscard]] static model load(const std::filesystem::path& path, const load_options& options = {}) {
    return model(std::make_shared<const state>(std::make_shared<const source>(path, options), options));
  }

  /// The same model with other adapters (none: the base). Shares the mapped file and the vocabulary; opening it costs next to nothing.
  [[nodiscard]] model with_adapters(const std::vector<adapter_file>& adapters) const {
    load_options options = state_->options;
    options.adapters = adapters;
    return model(std::make_shared<const state>(state_->base, options));
  }

  [[nodiscard]] const model_config& config() const { return state_->decode->config(); }
  /// The RoPE of a layer, or nullptr if it has none.
  [[nodiscard]] const rope_spec* rope(index_t layer) const {
    const index_t number = config().positions[static_cast<std::size_t>(layer)].rope;
    return number < 0 ? nullptr : &config().ropes[static_cast<std::size_t>(number)];
  }
  [[nodiscard]] const tokenizer& vocabulary() const { return state_->base->vocabulary; }
  [[nodiscard]] const checkpoint& file() const { return state_->base->file; }
  /// How blocks store keys and values.
  [[nodiscard]] const kv_layout& kv() const { return state_->layout; }
  /// An empty tail with room for `capacity` tokens, where this model computes. Of the types of kv(), but in a float type where those are q5_h or q4_h (growing()).
  [[nodiscard]] kv_tail make_tail(index_t capacity = 0) const { return kv_tail(state_->tail_layout, capacity, state_->decode->memory()); }
  /// A tail with room for `capacity` tokens whose first ones are those of `block`, in host memory, with keys rotated at 0 and on.
  [[nodiscard]] kv_tail tail_from(const std::shared_ptr<const kv_block>& block, index_t capacity) const {
    kv_tail tail = make_tail(std::max(capacity, block->tokens()));
    tail.begin_with(*stored_as(tail.layout().types, block, *state_->compute.kernels));
    return tail;
  }
  /// What a full tail of make_tail() has become, as a block of the types of kv(). The tail is empty afterwards.
  [[nodiscard]] std::shared_ptr<const kv_block> finish(kv_tail& tail) const {
    return tail.layout() == kv() ? tail.finish() : stored_as(kv().types, tail.finish(), *state_->compute.kernels);
  }
  /// Where its keys and values lie; keeps the model alive. nullptr: the host's memory.
  [[nodiscard]] std::shared_ptr<kv_memory> memory() const { return on_gpu() ? std::shared_ptr<kv_memory>(state_, state_->decode->memory()) : nullptr; }
  /// Whether it computes on a GPU.
  [[nodiscard]] bool on_gpu() const { return state_->decode->memory() != nullptr; }
  [[nodiscard]] precision compute() const { return state_->compute.kind == arithmetic::f32 ? precision::exact : precision::fast; }
  [[nodiscard]] isa level() const { return state_->compute.kernels->level; }
  /// Bytes of the copies of weights in the order of the kernels so far (load_options::repack); shared by handles with other adapters.
  [[nodiscard]] index_t repacked_bytes() const { return state_->base->store.bytes(); }
  [[nodiscard]] const log_sink& log() const { return state_->options.log; }

  /// The file's chat template, or the one that it calls `variant` ("rag", "tool_use"). Throws format_error if it isn't there or isn't Jinja.
  [[nodiscard]] chat_template chat(std::string_view variant = {}) const { return chat_template::from_gguf(state_->base->file, variant); }

  /// What keys and values of a block depend on besides its tokens: weights, adapters, shapes, RoPE, arithmetic, KV type. Reads all weights at its first call,
  /// unless their fingerprint lies beside the file (io/gguf_fingerprint.hpp).
  [[nodiscard]] const fingerprint128& fingerprint() const {
    (void)identity();
    return state_->fingerprint;
  }

  /// The parts of fingerprint(), by name: encoding, weights, adapters, shape, positions, kv, arithmetic, isa.
  [[nodiscard]] const fingerprint_parts& identity() const {
    std::call_once(state_->fingerprinted, [&] {
      state_->identity = state_->make_identity();
      state_->fingerprint = state_->identity.hash();
    });
    return state_->identity;
  }

  /// Fingerprint of the file's own tensors, without adapters: tells which checkpoint this is, whatever the file is called. Reads all weights at its first call,
  /// unless their fingerprint lies beside the file.
  [[nodiscard]] const fingerprint128& weights() const { return state_->base->weights(); }

  /// Keys and values of a block on its own, at local positions 0..T-1. Throws argument_error (no tokens, unknown token), context_error, cancelled_error.
  [[nodiscard]] std::shared_ptr<const kv_block> encode(std::span<const token_id> ids, const forward_control& control = {}) const {
    std::shared_ptr<const kv_block> result;
    encode(std::array{ids}, [&](std::size_t, std::shared_ptr<const kv_block> block) { result = std::move(block); }, control);
    return result;
  }

  /// Takes block number i of those that are encoded together, in order, as soon as it is done.
  using block_callback = std::function<void(std::size_t, std::shared_ptr<const kv_block>)>;

  /// The same for many blocks, which go through the linear layers together: small blocks are encoded at the speed of one long one. Each has the bits that it
  /// has alone. What `finished` throws ends it.
  void encode(std::span<const std::span<const token_id>> blocks, const block_callback& finished, const forward_control& control = {}) const {
    std::vector<kv_tail> tails;
    std::vector<forward_run> runs;
    tails.reserve(blocks.size());
    for (const auto& ids : blocks) {
      if (ids.empty()) throw argument_error("[model] a block without tokens can't be encoded; leave it out");
      tails.push_back(make_tail(static_cast<index_t>(ids.size())));
      runs.push_back({{ids, 0, {}, hidden_rows::none}, &tails.back()});
    }
    forward_control watched = control;
    watched.finished = [&](std::size_t i) { finished(i, finish(tails[i])); };
    (void)forward(runs, watched);
  }

  /// Runs tokens through all layers, appends their keys and values to `tail`, and returns hidden states after the last norm: [rows, D], D contiguous.
  /// Every position must be below context_length (context_error). If it throws, the tail is as it was.
  matrix forward(const forward_request& request, kv_tail& tail, const forward_control& control = {}) const {
    check_positions(request, tail);
    compute_options compute = state_->compute;
    compute.operations = control.operations;
    return state_->decode->forward(request, tail, compute, control);
  }

  /// The same for several runs that go through the linear layers together, each with a tail of its own: hidden states [rows, D] of each. A run's bits don't
  /// depend on the others, but a run of a few tokens may differ by rounding from the same run through forward() of one request.
  std::vector<matrix> forward(std::span<const forward_run> runs, const forward_control& control = {}) const {
    for (const forward_run& run : runs) check_positions(run.request, *run.tail);
    compute_options batched = state_->compute;
    batched.batched = true;
    batched.operations = control.operations;
    return state_->decode->forward(runs, batched, control);
  }

  /// Logits [rows, V] of hidden states [rows, D]; `operations` counts the product's.
  [[nodiscard]] std::vector<float> logits(const matrix& hidden, operation_counter* operations = nullptr) const {
    std::vector<float> result(static_cast<std::size_t>(hidden.rows() * config().vocabulary));
    compute_options compute = state_->compute;
    compute.operations = operations;
    state_->decode->project(hidden.data(), hidden.rows(), result.data(), compute);
    return result;
  }

  /// Of the logits of one hidden state [1, D], those asked for, in order, if the model can give them without the others.
  [[nodiscard]] std::optional<std::vector<token_candidate>> highest(const matrix& hidden, const candidate_request& request) const {
    return state_->decode->highest(hidden.data(), request);
  }

  /// Keys, or values, of a layer of a block as numbers, [Hkv, T, Dh].
  [[nodiscard]] std::vector<float> layer_values(const kv_block& block, index_t layer, bool values) const {
    if (block.memory() != nullptr) return layer_values(*to_host(block), layer, values);
    const kv_view view = block.layer(layer);
    std::vector<float> result(static_cast<std::size_t>(block.layout().kv_heads * block.tokens() * block.layout().head_dim));
    state_->compute.kernels->load_kv(values ? view.types.values : view.types.keys, values ? view.values : view.keys, static_cast<index_t>(result.size()), result.data());
    return result;
  }

  /// A copy of `block` with its keys rotated to `offset` (the paper's re-encoding), to be placed with placed_block::rotated.
  [[nodiscard]] std::shared_ptr<const kv_block> moved(const kv_block& block, index_t offset) const {
    const auto move = [&](const kv_block& from) { return moved_layers(from, [this](index_t layer) { return rope(layer); }, static_cast<double>(offset), *state_->compute.kernels); };
    return block.memory() == nullptr ? move(block) : from_host(move(*to_host(block)));  // through the host: this is the comparison's path, not the fast one
  }

  /// A copy of a block of a GPU's in host memory.
  [[nodiscard]] static std::shared_ptr<const kv_block> to_host(const kv_block& block) {
    auto result = std::make_shared<kv_block>(block.layout(), block.tokens());
    if (block.memory() != nullptr)
      block.memory()->copy(result->data(), block.bytes(), block.data(), block.bytes(), block.bytes(), 1, kv_memory::direction::to_host);
    else
      std::copy_n(block.data(), block.bytes(), result->data());
    return result;
  }

  /// A block in host memory as this model reads it: itself, or a copy on its GPU.
  [[nodiscard]] std::shared_ptr<const kv_block> from_host(std::shared_ptr<const kv_block> block) const {
    kv_memory* memory = state_->decode->memory();
    if (memory == nullptr) return block;
    auto result = std::make_shared<kv_block>(block->layout(), block->tokens(), memory);
    memory->copy(result->data(), block->bytes(), block->data(), block->bytes(), block->bytes(), 1, kv_memory::direction::to_device);
    return result;
  }

 private:
  /// What handles with different adapters share.
  struct source {
    source(const std::filesystem::path& path, const load_options& options) : file(open(path, options)), vocabulary(tokenizer::from_gguf(file)) {}

    [[nodiscard]] static checkpoint open(const std::filesystem::path& path, const load_options& options) {
      if (options.quantize) return open_quantized(path, *options.quantize, options.quantized_file, options.progress);
      return open_checkpoint(path);
    }

    [[nodiscard]] const fingerprint128& weights() const {
      std::call_once(hashed, [&] { hash = remembered_hash_tensors(file); });
      return hash;
    }

    checkpoint file;
    tokenizer vocabulary;
    mutable interleaved_store store;
    mutable std::once_flag hashed;
    mutable fingerprint128 hash;
  };

  struct state {
    state(std::shared_ptr<const source> from, const load_options& given)
        : base(std::move(from)), options(given), decode(make_decoder(base->file, given)) {
      compute = {&blockattn::kernels(), options.compute == precision::exact ? arithmetic::f32 : arithmetic::fast, false, options.repack ? &base->store : nullptr};
      const model_config& c = decode->config();
      layout = checked({c.layers, c.kv_heads, c.head_dim, stored_types(options, !device_name.empty())});
      tail_layout = layout;
      tail_layout.types = growing(layout.types, options.compute == precision::exact ? dtype::f32 : dtype::f16);
      if (is_transformed(layout.types.keys) && base->file.find_tensor("blk.0.attn_k.bias") != nullptr)
        blockattn::log(options.log, log_level::warning, cat("[kv] keys of type ", name(layout.types.keys), ": ", base->file.path(),
                       " adds biases to its keys, whose large channels leave the others no bits; expect wrong answers. Take ", to_string(kv_types(dtype::q8_0, layout.types.values)), " or f16."));
      if (base->vocabulary.vocab_size() != c.vocabulary)
        throw format_error(cat("[model] ", base->file.path(), ": the vocabulary has ", base->vocabulary.vocab_size(), " tokens, the embedding ", c.vocabulary,
                               " rows. The file is inconsistent; convert the model again."));
    }

    [[nodiscard]] fingerprint_parts make_identity() const {
      const model_config& c = decode->config();
      fingerprint_parts result;
      result.add("encoding", "blockattn.model5");
      result.add("weights", to_string(base->weights()));
      std::string changes;
      for (const applied_adapter& a : adapters) changes += cat(changes.empty() ? "" : " ", to_string(hash_tensors(a.adapter->file())), '*', std::hexfloat, a.scale);
      result.add("adapters", changes.empty() ? "none" : changes);
      result.add("shape", describe_shape(c));
      result.add("positions", describe_positions(c));
      result.add("kv", to_string(layout.types));
      result.add("arithmetic", compute.kind == arithmetic::f32 ? "f32" : (compute.store != nullptr ? "fast" : "fast rows"));  // rows: how few tokens are multiplied
      result.add("isa", device_name.empty() ? cat(name(compute.kernels->level)) : device_name);
      return result;
    }

    std::shared_ptr<const source> base;
    load_options options;
    std::vector<applied_adapter> adapters;
    std::string device_name;  ///< of a GPU, as far as results depend on it; empty: the CPU
    std::unique_ptr<const decoder> decode;
    compute_options compute;
    kv_layout layout;
    kv_layout tail_layout;  ///< of what still grows
    mutable std::once_flag fingerprinted;
    mutable fingerprint_parts identity;
    mutable fingerprint128 fingerprint;

   private:
    std::unique_ptr<const decoder> make_decoder(const checkpoint& file, const load_options& given) {
      for (const adapter_file& a : given.adapters) {
        if (!std::isfinite(a.scale)) throw argument_error(cat("[lora] ", a.path.string(), ": scale ", a.scale, "; allowed: any finite number, 1 as trained"));
        adapters.push_back({std::make_shared<const lora_adapter>(a.path), a.scale});
      }
      auto result = given.device == compute_device::cpu ? blockattn::make_decoder(file, adapters, given.context) : make_gpu_decoder(file, given);
      if (!result->config().rope_limit.empty()) blockattn::log(given.log, log_level::warning, result->config().rope_limit);
      return result;
    }

    /// Half precision has the bits of mantissa that keys of a wide range need; the kernels of a GPU multiply bfloat16.
    [[nodiscard]] static kv_types stored_types(const load_options& given, bool gpu) {
      return given.kv.value_or(given.compute == precision::exact ? dtype::f32 : gpu ? dtype::bf16 : dtype::f16);
    }

    std::unique_ptr<const decoder> make_gpu_decoder(const checkpoint& file, const load_options& given) {
      const bool must = given.device == compute_device::cuda;
      if (given.gpu_layers && *given.gpu_layers < 0)
        throw argument_error(cat("[model] gpu_layers ", *given.gpu_layers, "; allowed: 0 and more, more than the model has: all. Leave it out for all."));
#if defined(BLOCKATTN_CUDA)
      try {
        const cuda::device_report found = cuda::find_devices();
        if (given.gpu < 0 || given.gpu >= static_cast<int>(found.devices.size()))
          throw cuda_error(cat("[cuda] GPU ", given.gpu, "; found: ", found.devices.size(), found.problem.empty() ? "" : " (" + found.problem + ")", ". Use the CPU, or check the driver."));
        const kv_types types = stored_types(given, true);
        if (is_transformed(types.keys) || is_transformed(types.values))
          throw cuda_error(cat("[cuda] keys and values of type ", to_string(types), " are read by the CPU only; allowed on a GPU: f32, f16, bf16, q8_0, q4_0"));
        const bool exact = given.compute == precision::exact;
        auto result = make_cuda_decoder(file, adapters, given.context, {given.gpu, exact ? arithmetic::f32 : arithmetic::fast, types, given.gpu_bytes, given.gpu_layers});
        const cuda::memory_use use = static_cast<const cuda_decoder&>(*result).engine().memory();
        blockattn::log(given.log, log_level::info, cat("[cuda] weights of ", use.layers, " of ", result->config().layers, " layers stay on the device: ", use.weights, " bytes there, ", use.host_weights, " in pinned host memory"));
        device_name = cat("cuda ", found.devices[static_cast<std::size_t>(given.gpu)].capability);
        return result;
      } catch (const cuda_error& problem) {
        if (must) throw;
        blockattn::log(given.log, log_level::warning, cat(problem.what(), " Computing on the CPU."));
      }
#else
      if (must) throw argument_error("[model] device 'cuda': this program was built without it; build with -DBLOCKATTN_CUDA=ON, or use the CPU");
#endif
      return blockattn::make_decoder(file, adapters, given.context);
    }
  };

  /// ". " and why the context is shorter than the file says, if it is.
  [[nodiscard]] std::string why_limited() const { return config().rope_limit.empty() ? "" : ". " + config().rope_limit; }

  void check_positions(const forward_request& request, const kv_tail& tail) const {
    const index_t context = config().context_length;
    const auto tokens = static_cast<index_t>(request.ids.size());
    if (!request.places.empty()) check_places(request, tail);
    const index_t first = request.places.empty() ? request.position : request.places.front(), end = tokens > 0 ? request.position_of(tokens - 1) + 1 : first;
    if (first < 0 || end > context)
      throw context_error(cat("[model] tokens at positions ", first, " to ", end - 1, "; the model's context has ", context, why_limited()));
    if (!request.rotations.empty() && request.rotations.size() != request.ids.size())
      throw argument_error(cat("[model] ", request.rotations.size(), " rotations for ", request.ids.size(), " tokens; allowed: one a token, or none"));
    for (const double at : request.rotations)
      if (!(at >= 0 && at < static_cast<double>(context)))
        throw context_error(cat("[model] a token at position ", at, "; the model's context has ", context, why_limited()));
  }

  static void check_places(const forward_request& request, const kv_tail& tail) {
    if (request.places.size() != request.ids.size())
      throw argument_error(cat("[model] ", request.places.size(), " places for ", request.ids.size(), " tokens; allowed: one a token, or none"));
    index_t least = 0;
    for (const index_t place : request.places) {
      if (place < least || place >= tail.in_place()) throw argument_error(cat("[model] a token at place ", place, " of a tail; allowed: ascending ones from ", least, " to ", tail.in_place() - 1));
      least = place + 1;
    }
  }

  explicit model(std::shared_ptr<const state> s) : state_(std::move(s)) {}

  std::shared_ptr<const state> state_;
};

}  // namespace blockattn::inline v0
