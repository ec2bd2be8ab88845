// Weights of some layers in host memory, brought to the GPU for each use: the bits of a model that lies there whole, whatever the number of layers, the prompt and the mode.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockattn/blockattn.hpp"
#include "blockattn/cuda/engine.hpp"
#include "support/gpu.hpp"
#include "support/gpu_prompts.hpp"
#include "support/model_path.hpp"

using namespace blockattn;

namespace {

constexpr index_t width = 256, heads = 4, kv_heads = 2, head_dim = 64, feed_forward = 512, vocabulary = 300, layers = 5;

/// A network with random weights in host memory: bfloat16, and q8_0 from the third layer on.
class random_network {
 public:
  random_network() {
    facts.width = width, facts.heads = heads, facts.kv_heads = kv_heads, facts.head_dim = head_dim, facts.feed_forward = feed_forward, facts.vocabulary = vocabulary;
    facts.attention_scale = 1 / std::sqrt(static_cast<float>(head_dim));
    cuda::rope_facts rope{rope_pairing::halves, head_dim, 1, {}};
    for (index_t i = 0; i < head_dim / 2; ++i) rope.frequency.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
    facts.ropes.push_back(rope);
    for (index_t l = 0; l < layers; ++l) {
      const dtype type = l < 2 ? dtype::bf16 : dtype::q8_0;
      cuda::layer_facts x;
      x.query = matrix(dtype::bf16, heads * head_dim, width), x.key = matrix(type, kv_heads * head_dim, width), x.value = matrix(type, kv_heads * head_dim, width);
      x.output = matrix(type, width, heads * head_dim), x.gate = matrix(type, feed_forward, width), x.up = matrix(type, feed_forward, width), x.down = matrix(type, width, feed_forward);
      x.attention_norm = vector(width), x.feed_forward_norm = vector(width), x.key_bias = l == 1 ? vector(kv_heads * head_dim) : nullptr;
      x.rope = 0;
      facts.layers.push_back(x);
    }
    facts.embedding = matrix(dtype::bf16, vocabulary, width), facts.head = matrix(dtype::bf16, vocabulary, width);
    facts.norm = vector(width);
  }
  cuda::network_facts facts;

 private:
  std::uint32_t next() { return state_ = state_ * 1664525U + 1013904223U; }
  weight_view matrix(dtype type, index_t rows, index_t columns) {
    std::vector<std::byte>& bytes = matrices_.emplace_back(static_cast<std::size_t>(rows * row_bytes(type, columns)));
    if (type == dtype::bf16) {
      for (std::size_t i = 0; i < bytes.size(); i += 2) {
        const std::uint16_t bits = f32_to_bf16((static_cast<float>(next() >> 8) * 0x1p-23F - 1) * 0.1F);
        std::memcpy(&bytes[i], &bits, 2);
      }
    } else {
      for (std::byte& b : bytes) b = static_cast<std::byte>(next() >> 24);
      const std::uint16_t scale = 0x1400;  // 2^-10
      for (std::size_t i = 0; i < bytes.size(); i += 34) std::memcpy(&bytes[i], &scale, 2);
    }
    return {type, bytes.data(), rows, columns};
  }
  const float* vector(index_t count) {
    std::vector<float>& values = vectors_.emplace_back();
    for (index_t i = 0; i < count; ++i) values.push_back(0.5F + static_cast<float>(next() >> 8) * 0x1p-24F);
    return values.data();
  }
  std::uint32_t state_ = 1;
  std::deque<std::vector<std::byte>> matrices_;
  std::deque<std::vector<float>> vectors_;
};

cuda::engine_options options_of(std::optional<index_t> count, arithmetic kind) { return {0, kind, kind == arithmetic::f32 ? dtype::f32 : dtype::bf16, 0, count}; }

/// Prompts on one engine, in turn.
class runner {
 public:
  runner(cuda::engine& engine, arithmetic kind) : engine_(engine), layout_{layers, kv_heads, head_dim, kind == arithmetic::f32 ? dtype::f32 : dtype::bf16} {
    for (index_t i = 0; i < 6000; ++i) ids_.push_back(static_cast<token_id>((i * 7919 + 13) % vocabulary));
  }

  /// Logits after ids [first, first + count) at `position`, behind `context`; with `keep`, its keys and values become a segment that later runs see.
  std::vector<float> run(index_t first, index_t count, index_t position, std::vector<cuda::segment> context, index_t rows, cuda::segment* keep = nullptr) {
    kept_.push_back(engine_.allocate(layout_.token_bytes() * count));
    const cuda::segment own{kept_.back().get(), count, 0, count, 0, position};
    context.push_back(own);
    if (keep != nullptr) *keep = own;
    cuda::forward_run r;
    r.ids = std::span(ids_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    r.position = position, r.segments = context, r.tail = kept_.back().get(), r.tail_stride = count, r.rows = rows;
    std::vector<float> hidden(static_cast<std::size_t>(rows * width)), logits(static_cast<std::size_t>(rows * vocabulary));
    engine_.forward(r, hidden.data());
    if (rows > 0) engine_.project(hidden.data(), rows, logits.data());
    return logits;
  }

  /// Full mode at all lengths, block mode, then tokens one by one.
  std::vector<float> all() {
    std::vector<float> result;
    const auto take = [&](const std::vector<float>& logits) { result.insert(result.end(), logits.begin(), logits.end()); };
    for (const index_t n : {1, 5, 50, 600, 4500}) take(run(0, n, 0, {}, std::min<index_t>(n, 7)));
    std::vector<cuda::segment> placed;
    index_t offset = 0;
    for (const index_t n : {150, 33, 210}) {
      cuda::segment block;
      (void)run(offset, n, 0, {}, 0, &block);
      block.rotation = static_cast<double>(offset), block.position = offset;
      placed.push_back(block);
      offset += n;
    }
    for (const index_t n : {1, 6, 50}) take(run(offset, n, offset, placed, n));
    for (index_t i = 0; i < 8; ++i) {
      cuda::segment own;
      take(run(offset + i, 1, offset + i, placed, 1, &own));
      placed.push_back(own);
    }
    return result;
  }

 private:
  cuda::engine& engine_;
  kv_layout layout_;
  std::vector<token_id> ids_;
  std::vector<std::shared_ptr<std::byte>> kept_;
};

}  // namespace

TEST_CASE("Layers whose weights come from host memory give the bits of those on the GPU") {
  if (!blockattn_test::have_gpu()) return;
  const random_network network;
  for (const arithmetic kind : {arithmetic::fast, arithmetic::f32}) {
    cuda::engine whole(network.facts, options_of(std::nullopt, kind));
    CHECK(whole.memory().layers == layers);
    CHECK(whole.memory().host_weights == 0);
    const std::vector<float> expected = runner(whole, kind).all();
    CHECK(std::all_of(expected.begin(), expected.end(), [](float x) { return std::isfinite(x); }));
    for (const index_t count : {0, 1, 2, 3, 4, 5, 100}) {
      INFO(count << " layers on the GPU, " << (kind == arithmetic::fast ? "fast" : "exact"));
      cuda::engine engine(network.facts, options_of(count, kind));
      CHECK(engine.memory().layers == std::min(count, layers));
      CHECK((engine.memory().host_weights > 0) == (count < layers));
      for (int again = 0; again < 2; ++again) CHECK(runner(engine, kind).all() == expected);
    }
  }
}

TEST_CASE("Made weights of layers in host memory are those of a GPU's") {
  if (!blockattn_test::have_gpu()) return;
  const random_network network;
  cuda::network_facts made = network.facts;
  made.synthetic = true;
  for (cuda::layer_facts& l : made.layers) l.key_bias = nullptr;
  cuda::engine whole(made, options_of(std::nullopt, arithmetic::fast)), part(made, options_of(2, arithmetic::fast));
  CHECK(runner(whole, arithmetic::fast).run(0, 50, 0, {}, 50) == runner(part, arithmetic::fast).run(0, 50, 0, {}, 50));
}

TEST_CASE("A call that ends between layers leaves the weights in host memory usable") {
  if (!blockattn_test::have_gpu()) return;
  const random_network network;
  for (const index_t count : {0, 1, 3}) {
    INFO(count << " layers on the GPU");
    cuda::engine free(network.facts, options_of(count, arithmetic::fast));
    cuda::engine_options options = options_of(count, arithmetic::fast);
    options.memory_limit = free.memory().weights + 600000;  // too little to unpack the third layer
    cuda::engine tight(network.facts, options);
    const std::vector<float> expected = runner(free, arithmetic::fast).run(3, 1, 0, {}, 1);
    for (int again = 0; again < 3; ++again) {
      CHECK_THROWS_AS(runner(tight, arithmetic::fast).run(0, 30, 0, {}, 1), cuda_memory_error);
      CHECK(runner(tight, arithmetic::fast).run(3, 1, 0, {}, 1) == expected);
    }
  }
}

TEST_CASE("A model that doesn't fit says how many layers would, and these do") {
  if (!blockattn_test::have_gpu()) return;
  cuda::network_facts large;
  large.synthetic = true;
  large.width = 1024, large.heads = 16, large.kv_heads = 4, large.head_dim = 64, large.feed_forward = 4096, large.vocabulary = 1000;
  const auto matrix = [](index_t rows, index_t columns) { return weight_view{dtype::bf16, nullptr, rows, columns}; };
  for (int l = 0; l < 20; ++l) {
    cuda::layer_facts x;
    x.query = x.output = matrix(1024, 1024), x.key = x.value = matrix(256, 1024), x.gate = x.up = matrix(4096, 1024), x.down = matrix(1024, 4096);
    large.layers.push_back(x);
  }
  large.embedding = large.head = matrix(1000, 1024);
  cuda::engine_options options = options_of(std::nullopt, arithmetic::fast);
  options.memory_limit = index_t{500} << 20;
  std::string message;
  try {
    const cuda::engine engine(large, options);
    FAIL("no error");
  } catch (const cuda_memory_error& e) {
    message = e.what();
  }
  INFO(message);
  const auto at = message.find("keep ");
  REQUIRE(at != std::string::npos);
  CHECK(message.find(" of its 20 layers on the device (gpu_layers, --gpu-layers)") != std::string::npos);
  options.layers = std::stoll(message.substr(at + 5));
  CHECK(*options.layers < 20);
  const cuda::engine engine(large, options);
  CHECK(engine.memory().layers == *options.layers);
  options.layers = -1;
  CHECK_THROWS_AS(cuda::engine(large, options), argument_error);
}

TEST_CASE("Sessions with the weights of some layers in host memory: logits and text of those without") {
  if (!blockattn_test::have_gpu()) return;
  load_options options;
  options.device = compute_device::cuda;
  const model whole = model::load(blockattn_test::model_path(), options);
  generation_options answer;
  answer.max_tokens = 24;
  attention_plan full;
  full.mode = attention_mode::full;
  for (const index_t count : {index_t{0}, index_t{1}, whole.config().layers / 2}) {
    INFO(count << " layers on the GPU");
    std::vector<std::string> lines;
    options.gpu_layers = count;
    options.log = [&](log_level level, std::string_view line) {
      if (level == log_level::info) lines.emplace_back(line);
    };
    const model part = model::load(blockattn_test::model_path(), options);
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].find(cat("[cuda] weights of ", count, " of ", whole.config().layers, " layers stay on the device: ")) == 0);
    CHECK(part.fingerprint() == whole.fingerprint());
    for (std::size_t i = 0; i < 3; ++i) {
      const auto blocks = blockattn_test::made_up_question(whole, i);
      CHECK(session(part).logits(blocks) == session(whole).logits(blocks));
      CHECK(session(part).logits(blocks, full) == session(whole).logits(blocks, full));
      const auto cache = std::make_shared<block_cache>(std::size_t{256} << 20);
      const auto miss = session(part, cache).generate(blocks, answer), hit = session(part, cache).generate(blocks, answer);
      CHECK(miss.ids == hit.ids);
      CHECK(miss.ids == session(whole).generate(blocks, answer).ids);
    }
  }
}
