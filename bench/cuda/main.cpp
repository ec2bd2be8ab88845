// blockattn_cuda_bench: time to first token on a GPU with a model of Llama-3-8B's shapes, whose bfloat16 weights are made on the device (no file): the setting of
// the Block-Attention paper's table (arXiv 2409.15355). All but the last `--query` tokens are passages of `--passage` tokens, each encoded alone and cached.
//
// For each length, medians over `-r` runs after two untimed ones: the passages' keys in GPU memory; the same with the passages copied from pinned host memory
// first; full attention over the whole prompt; one decoding step after it. From the call to the logits in host memory. Before that, the logits over cached passages
// are compared with those over passages encoded anew, bit for bit.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "blockattn/cuda/engine.hpp"

namespace {

using namespace blockattn;
using json = nlohmann::ordered_json;

struct bench_flags {
  std::vector<int> lengths = {50, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  int query = 50, passage = 150, repetitions = 20, layers = 32, gpu_layers = -1;  // gpu_layers -1: all
  std::string kv = "bf16", output = "md";
  bool skip_full = false, graphs = true;
};

constexpr index_t width = 4096, heads = 32, kv_heads = 8, head_dim = 128, feed_forward = 14336, vocabulary = 128256;

cuda::network_facts llama3_8b(index_t layers) {
  cuda::network_facts f;
  f.synthetic = true;
  f.width = width, f.heads = heads, f.kv_heads = kv_heads, f.head_dim = head_dim, f.feed_forward = feed_forward, f.vocabulary = vocabulary;
  f.attention_scale = 1 / std::sqrt(static_cast<float>(head_dim));
  cuda::rope_facts rope{rope_pairing::halves, head_dim, 1, {}};
  for (index_t i = 0; i < head_dim / 2; ++i) rope.frequency.push_back(std::pow(500000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  f.ropes.push_back(rope);
  const auto matrix = [](index_t rows, index_t columns) { return weight_view{dtype::bf16, nullptr, rows, columns}; };
  for (index_t l = 0; l < layers; ++l) {
    cuda::layer_facts x;
    x.query = matrix(heads * head_dim, width), x.key = x.value = matrix(kv_heads * head_dim, width), x.output = matrix(width, heads * head_dim);
    x.gate = x.up = matrix(feed_forward, width), x.down = matrix(width, feed_forward);
    x.rope = 0;
    f.layers.push_back(x);
  }
  f.embedding = f.head = matrix(vocabulary, width);
  return f;
}

class bench {
 public:
  explicit bench(const bench_flags& flags)
      : flags_(flags), layout_{flags.layers, kv_heads, head_dim, parse_kv_types(flags.kv)}, engine_(llama3_8b(flags.layers), {0, arithmetic::fast, layout_.types, 0, flags.gpu_layers < 0 ? std::nullopt : std::optional<index_t>(flags.gpu_layers), flags.graphs}) {
    for (index_t i = 0; i < *std::max_element(flags.lengths.begin(), flags.lengths.end()) + 64; ++i) ids_.push_back(static_cast<token_id>((i * 7919 + 11) % vocabulary));
  }

  json row(index_t length) {
    const index_t query = std::min<index_t>(flags_.query, length), cached = length - query;
    encode_passages(cached);
    json row = {{"device", engine_.device().name}, {"shape", "llama3-8b"}, {"kv", flags_.kv}, {"n_ctx", length}, {"n_query", query}, {"n_passages", passages_.size()}};
    const std::vector<float> hit = first_token(cached, query);
    encode_passages(cached);
    const std::vector<float> miss = first_token(cached, query);
    if (std::memcmp(hit.data(), miss.data(), hit.size() * sizeof(float)) != 0) throw error("[bench] the logits over cached passages aren't those over passages encoded anew");
    row["block_ms"] = median([&] { (void)first_token(cached, query); });
    row["decode_ms"] = median([&] { (void)next_token(cached, query); });
    const auto bytes = static_cast<double>(layout_.token_bytes() * length + weight_bytes());
    row["decode_gb_per_s"] = bytes / row["decode_ms"].get<double>() / 1e6;
    row["n_gpu_layers"] = engine_.memory().layers, row["device_weight_bytes"] = engine_.memory().weights, row["host_weight_bytes"] = engine_.memory().host_weights;
    if (cached > 0) time_host_copies(cached, query, row);
    if (!flags_.skip_full) {
      row["full_ms"] = median([&] { (void)full_attention(length); });
      row["reduction"] = 1 - row["block_ms"].get<double>() / row["full_ms"].get<double>();
    }
    return row;
  }

 private:
  /// That a step reads: not the embedding, and those of layers in host memory from there.
  [[nodiscard]] index_t weight_bytes() const {
    const cuda::memory_use use = engine_.memory();
    const index_t away = flags_.layers - use.layers, buffers = away > 0 ? 2 * use.host_weights / away : 0;
    return use.weights - buffers + use.host_weights - 2 * width * vocabulary;
  }

  template <class Work>
  double median(const Work& work) const {
    std::vector<double> times;
    for (int i = -2; i < flags_.repetitions; ++i) {
      const auto start = std::chrono::steady_clock::now();
      work();
      if (i >= 0) times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  void encode_passages(index_t tokens) {
    passages_.clear();
    for (index_t at = 0; at < tokens; at += flags_.passage) {
      const index_t n = std::min<index_t>(flags_.passage, tokens - at);
      passages_.push_back({engine_.allocate(layout_.token_bytes() * n), n});
      run(at, n, 0, {}, passages_.back().data.get(), n, 0, 0);
    }
  }

  /// Logits after `count` tokens from ids_[first], placed at `position`; empty if `rows` is 0.
  std::vector<float> run(index_t first, index_t count, index_t position, std::vector<cuda::segment> segments, std::byte* tail, index_t stride, index_t tail_first, index_t rows) {
    segments.push_back({tail, stride, 0, tail_first + count, 0, position - tail_first});
    cuda::forward_run r;
    r.ids = std::span(ids_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    r.position = position, r.segments = segments, r.tail = tail, r.tail_stride = stride, r.tail_first = tail_first, r.rows = rows;
    std::vector<float> hidden(static_cast<std::size_t>(rows * width)), logits(static_cast<std::size_t>(rows * vocabulary));
    engine_.forward(r, hidden.data());
    if (rows > 0) engine_.project(hidden.data(), rows, logits.data());
    return logits;
  }

  [[nodiscard]] std::vector<cuda::segment> placed() const {
    std::vector<cuda::segment> segments;
    index_t at = 0;
    for (const passage& p : passages_) {
      segments.push_back({p.data.get(), p.tokens, 0, p.tokens, static_cast<double>(at), at});
      at += p.tokens;
    }
    return segments;
  }

  std::vector<float> first_token(index_t cached, index_t query) { return run(cached, query, cached, placed(), tail_.get(), tail_tokens_, 0, 1); }
  std::vector<float> next_token(index_t cached, index_t query) { return run(cached + query, 1, cached + query, placed(), tail_.get(), tail_tokens_, query, 1); }
  std::vector<float> full_attention(index_t length) {
    full_ = nullptr;
    full_ = engine_.allocate(layout_.token_bytes() * length);
    return run(0, length, 0, {}, full_.get(), length, 0, 1);
  }

  /// The passages lie in pinned host memory and are copied to the device for the request.
  void time_host_copies(index_t cached, index_t query, json& row) {
    const index_t bytes = layout_.token_bytes() * cached;
    full_ = nullptr;
    const auto host = engine_.allocate_pinned(bytes);
    const auto copy_all = [&] {
      std::byte* from = host.get();
      for (const passage& p : passages_) {
        const index_t size = layout_.token_bytes() * p.tokens;
        engine_.copy(p.data.get(), size, from, size, size, 1, cuda::engine::direction::to_device);
        from += size;
      }
    };
    std::byte* to = host.get();
    for (const passage& p : passages_) {
      const index_t size = layout_.token_bytes() * p.tokens;
      engine_.copy(to, size, p.data.get(), size, size, 1, cuda::engine::direction::to_host);
      to += size;
    }
    const double copying = median(copy_all);
    const double one_piece = median([&] { engine_.copy(whole(bytes), bytes, host.get(), bytes, bytes, 1, cuda::engine::direction::to_device); });
    row["host_block_ms"] = median([&] {
      copy_all();
      (void)first_token(cached, query);
    });
    row["host_copy_gb_per_s"] = static_cast<double>(bytes) / copying / 1e6;
    row["bus_gb_per_s"] = static_cast<double>(bytes) / one_piece / 1e6;
    full_ = nullptr;
  }
  std::byte* whole(index_t bytes) {
    if (full_ == nullptr) full_ = engine_.allocate(bytes);
    return full_.get();
  }

  struct passage {
    std::shared_ptr<std::byte> data;
    index_t tokens;
  };
  bench_flags flags_;
  kv_layout layout_;
  cuda::engine engine_;
  std::vector<token_id> ids_;
  std::vector<passage> passages_;
  index_t tail_tokens_ = flags_.query + 64;
  std::shared_ptr<std::byte> tail_ = engine_.allocate(layout_.token_bytes() * tail_tokens_), full_;
};

void print(const json& row) {
  const auto number = [&](const char* key, int digits) {
    if (!row.contains(key)) return std::string("-");
    std::ostringstream out;
    out.precision(digits);
    out << std::fixed << row[key].get<double>();
    return out.str();
  };
  std::cout << "| " << row["n_ctx"] << " | " << number("full_ms", 1) << " | " << number("block_ms", 2) << " | " << number("host_block_ms", 2) << " | "
            << number("host_copy_gb_per_s", 1) << " of " << number("bus_gb_per_s", 1) << " | " << number("decode_ms", 2) << " | " << number("decode_gb_per_s", 0) << " |" << std::endl;
}

int run(const bench_flags& flags) {
  const cuda::device_report found = cuda::find_devices();
  if (found.devices.empty()) throw cuda_error("[cuda] no GPU: " + found.problem);
  bench all(flags);
  json rows = json::array();
  if (flags.output == "md")
    std::cout << found.devices[0].name << ", KV " << flags.kv << ", medians of " << flags.repetitions << "\n\n| tokens | full ms | cached ms | from host memory ms | host copy GB/s | decode ms | decode GB/s |\n|---|---|---|---|---|---|---|\n";
  for (const int length : flags.lengths) {
    rows.push_back(all.row(length));
    if (flags.output == "md") print(rows.back());
  }
  if (flags.output == "json") std::cout << rows.dump(2) << std::endl;
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  bench_flags flags;
  CLI::App app("Time to first token on a GPU, with random weights of Llama-3-8B's shapes", "blockattn_cuda_bench");
  app.footer("Example:\n  blockattn_cuda_bench --lengths 512,32768 --kv q8_0 -o json");
  app.add_option("--lengths", flags.lengths, "Tokens of the whole prompt")->delimiter(',')->check(CLI::Range(2, 1 << 20))->capture_default_str();
  app.add_option("--query", flags.query, "Tokens of the final block")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--passage", flags.passage, "Tokens of a passage")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--kv", flags.kv, "Storage of keys and values")->capture_default_str();
  app.add_option("--layers", flags.layers, "Layers of the model")->check(CLI::Range(1, 128))->capture_default_str();
  app.add_option("--gpu-layers", flags.gpu_layers, "So many layers keep their weights on the GPU, the others' come from host memory for each use (default: all)")->check(CLI::Range(0, 128));
  app.add_option("-r,--repetitions", flags.repetitions, "Timed runs")->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_option("-o,--output", flags.output, "Form of the results")->check(CLI::IsMember({"md", "json"}))->capture_default_str();
  app.add_flag("!--no-graphs", flags.graphs, "Launch the kernels of a decoding step one by one");
  app.add_flag("--skip-full", flags.skip_full, "Leave out full attention");
  CLI11_PARSE(app, count, arguments);
  try {
    return run(flags);
  } catch (const std::exception& e) {
    std::cerr << "blockattn_cuda_bench: " << e.what() << std::endl;
    return 1;
  }
}
