// Steps of one token as one launch of a graph: the bits of single launches, whatever changes between the steps.
#include <catch2/catch.hpp>

#include <atomic>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "blockattn/cuda/engine.hpp"
#include "support/gpu.hpp"

using namespace blockattn;

namespace {

constexpr index_t width = 256, layers = 3, kv_heads = 2, heads = 8, feed_forward = 512, vocabulary = 1000;

cuda::network_facts network(index_t head_dim, index_t window) {
  cuda::network_facts f;
  f.synthetic = true;
  f.width = width, f.heads = heads, f.kv_heads = kv_heads, f.head_dim = head_dim, f.feed_forward = feed_forward, f.vocabulary = vocabulary;
  f.attention_scale = 1 / std::sqrt(static_cast<float>(head_dim));
  cuda::rope_facts rope{rope_pairing::halves, head_dim, 1, {}};
  for (index_t i = 0; i < head_dim / 2; ++i) rope.frequency.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  f.ropes.push_back(rope);
  const auto matrix = [](index_t rows, index_t columns) { return weight_view{dtype::bf16, nullptr, rows, columns}; };
  for (index_t l = 0; l < layers; ++l) {
    cuda::layer_facts x;
    x.query = matrix(heads * head_dim, width), x.key = x.value = matrix(kv_heads * head_dim, width), x.output = matrix(width, heads * head_dim);
    x.gate = x.up = matrix(feed_forward, width), x.down = matrix(width, feed_forward);
    x.rope = 0, x.window = l == 1 ? window : 0;
    f.layers.push_back(x);
  }
  f.embedding = f.head = matrix(vocabulary, width);
  return f;
}

/// A session: passages, all but the first with `scaling`, and a tail that grows.
class speaker {
 public:
  speaker(cuda::engine& engine, index_t head_dim, kv_types kv, index_t passages, index_t seed, segment_scaling scaling) : engine_(engine), layout_{layers, kv_heads, head_dim, kv}, seed_(seed) {
    for (index_t i = 0; i < passages; ++i) {
      const index_t n = 40 + 7 * (i % 9);
      kept_.push_back(engine.allocate(layout_.token_bytes() * n));
      (void)run(n, 0, {}, kept_.back().get(), n, 0);
      placed_.push_back({kept_.back().get(), n, 0, n, static_cast<double>(position_), position_, i > 0 ? scaling : segment_scaling{}});
      position_ += n;
    }
    start_ = position_;
    grow(64);
  }

  /// The hidden state after `count` more tokens.
  std::vector<float> say(index_t count) {
    const index_t first = position_ - start_;
    if (first + count > room_) grow(2 * room_ + count);
    std::vector<cuda::segment> segments = placed_;
    segments.push_back({tail_.get(), room_, 0, first + count, 0, start_});
    std::vector<float> hidden = run(count, position_, segments, tail_.get(), room_, first);
    position_ += count;
    return hidden;
  }

 private:
  void grow(index_t room) {
    const auto next = engine_.allocate(layout_.token_bytes() * room);
    const index_t said = position_ - start_;
    std::byte* to = next.get();
    const std::byte* from = tail_.get();
    for (index_t l = 0; l < layers && said > 0; ++l)
      for (const index_t row : {layout_.key_row_bytes(), layout_.value_row_bytes()}) {
        engine_.copy(to, room * row, from, room_ * row, said * row, kv_heads, kv_memory::direction::on_device);
        to += kv_heads * room * row, from += kv_heads * room_ * row;
      }
    tail_ = next, room_ = room;
  }

  std::vector<float> run(index_t count, index_t position, std::vector<cuda::segment> segments, std::byte* tail, index_t stride, index_t first) {
    std::vector<token_id> ids;
    for (index_t i = 0; i < count; ++i) ids.push_back(static_cast<token_id>(((position + i) * 7919 + seed_) % vocabulary));
    if (segments.empty()) segments.push_back({tail, stride, 0, count, 0, position});
    std::vector<float> hidden(width);
    cuda::forward_run r;
    r.ids = ids, r.position = position, r.segments = segments, r.tail = tail, r.tail_stride = stride, r.tail_first = first, r.rows = 1;
    engine_.forward(r, hidden.data());
    return hidden;
  }

  cuda::engine& engine_;
  kv_layout layout_;
  index_t seed_, position_ = 0, start_ = 0, room_ = 0;
  std::vector<cuda::segment> placed_;
  std::vector<std::shared_ptr<std::byte>> kept_;
  std::shared_ptr<std::byte> tail_;
};

cuda::engine_options options_of(arithmetic kind, kv_types kv, bool graphs) { return {0, kind, kv, 0, std::nullopt, graphs}; }

/// Many steps, with a prompt, another session and longer logits between some of them.
std::vector<float> conversation(cuda::engine& engine, index_t head_dim, kv_types kv, segment_scaling scaling = {}) {
  std::vector<float> all;
  const auto take = [&](const std::vector<float>& hidden) { all.insert(all.end(), hidden.begin(), hidden.end()); };
  for (const index_t passages : {0, 3, 40}) {
    speaker one(engine, head_dim, kv, passages, 3, scaling), other(engine, head_dim, kv, passages + 1, 5, scaling);
    take(one.say(5));
    take(other.say(1));
    for (int i = 0; i < 300; ++i) {
      take(one.say(1));
      if (i % 50 == 20) take(one.say(12));
      if (i % 70 == 30) take(other.say(1));
      if (i == 111) take(other.say(700));
    }
  }
  return all;
}

}  // namespace

TEST_CASE("Steps that a GPU repeats as a graph give the bits of single launches") {
  if (!blockattn_test::have_gpu()) return;
  for (const index_t head_dim : {64, 128})
    for (const kv_types kv : {kv_types(dtype::bf16), kv_types(dtype::q8_0), kv_types(dtype::f16)}) {
      INFO(head_dim << " channels, " << to_string(kv));
      cuda::engine single(network(head_dim, 100), options_of(arithmetic::fast, kv, false)), repeated(network(head_dim, 100), options_of(arithmetic::fast, kv, true));
      const std::vector<float> expected = conversation(single, head_dim, kv);
      CHECK(conversation(repeated, head_dim, kv) == expected);
      CHECK(single.repeated_steps() == 0);
      CHECK(repeated.repeated_steps() > 400);
    }
  for (const arithmetic kind : {arithmetic::fast, arithmetic::f32}) {
    const dtype kv = kind == arithmetic::fast ? dtype::bf16 : dtype::f32;
    INFO("scaled passages, " << name(kv));
    cuda::engine single(network(128, 100), options_of(kind, kv, false)), repeated(network(128, 100), options_of(kind, kv, true));
    CHECK(conversation(repeated, 128, kv, {0.9F, 0.8F}) == conversation(single, 128, kv, {0.9F, 0.8F}));
    CHECK(repeated.repeated_steps() > 400);
  }
  cuda::engine single(network(64, 0), options_of(arithmetic::f32, dtype::f32, false)), repeated(network(64, 0), options_of(arithmetic::f32, dtype::f32, true));
  CHECK(conversation(repeated, 64, dtype::f32) == conversation(single, 64, dtype::f32));
  CHECK(repeated.repeated_steps() > 400);
}

TEST_CASE("Other threads' memory and copies don't get into a GPU's graphs") {
  if (!blockattn_test::have_gpu()) return;
  cuda::engine single(network(128, 0), options_of(arithmetic::fast, dtype::bf16, false)), repeated(network(128, 0), options_of(arithmetic::fast, dtype::bf16, true));
  const std::vector<float> expected = conversation(single, 128, dtype::bf16);
  std::atomic<bool> stop = false;
  std::thread beside([&] {
    const auto host = repeated.allocate_pinned(1 << 20);
    while (!stop) {
      const auto there = repeated.allocate(1 << 20);
      repeated.copy(there.get(), 1 << 20, host.get(), 1 << 20, 1 << 20, 1, kv_memory::direction::to_device);
      repeated.copy(there.get(), 1 << 10, there.get() + (1 << 19), 1 << 10, 1 << 10, 4, kv_memory::direction::on_device);
    }
  });
  CHECK(conversation(repeated, 128, dtype::bf16) == expected);
  stop = true;
  beside.join();
  CHECK(repeated.repeated_steps() > 400);
}
