// Checkpoints of other families against transformers on their dequantised weights, in full and in block mode: data of scripts/golden/make_checkpoint_golden.py.
// The files are those that `scripts/test --models all` fetches; without them these tests say so and are left out.
#include <catch2/catch.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockattn/model/families.hpp"
#include "support/golden_compare.hpp"

namespace {

using blockattn::index_t;
using blockattn_test::golden_case;
using blockattn_test::golden_figures;
using blockattn_test::logits_sink;

class checkpoint {
 public:
  checkpoint(const std::filesystem::path& path, blockattn::arithmetic kind) : file_(path), decode_(blockattn::make_decoder(file_)) {
    compute_.kernels = &blockattn::kernels();
    compute_.kind = kind;
    const blockattn::model_config& c = decode_->config();
    layout_ = {c.layers, c.kv_heads, c.head_dim, kind == blockattn::arithmetic::f32 ? blockattn::dtype::f32 : blockattn::dtype::f16};
  }

  /// Local blocks at local positions, then the rest over them. Every `every`-th position is compared, and the sampled ones.
  void run(const golden_case& c, index_t every, const logits_sink& sink) const {
    std::vector<blockattn::placed_block> placed;
    index_t offset = 0;
    for (index_t b = 0; b < c.local; ++b) {
      const index_t length = c.lengths[static_cast<std::size_t>(b)];
      blockattn::kv_tail alone(layout_, length);
      project(c, forward(c, offset, length, 0, {}, alone), offset, every, sink);
      placed.push_back({alone.finish(), offset, false});
      offset += length;
    }
    blockattn::kv_tail tail(layout_);
    project(c, forward(c, offset, c.tokens() - offset, offset, placed, tail), offset, every, sink);
  }

  [[nodiscard]] const blockattn::checkpoint& file() const { return file_; }
  [[nodiscard]] index_t vocabulary() const { return decode_->config().vocabulary; }

 private:
  blockattn::matrix forward(const golden_case& c, index_t first, index_t count, index_t position, std::span<const blockattn::placed_block> context,
                            blockattn::kv_tail& tail) const {
    const auto ids = std::span(c.ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    return decode_->forward({ids, position, context, blockattn::hidden_rows::all}, tail, compute_, {});
  }

  void project(const golden_case& c, const blockattn::matrix& hidden, index_t position, index_t every, const logits_sink& sink) const {
    std::vector<index_t> rows;
    for (index_t r = 0; r < hidden.rows(); ++r)
      if ((position + r) % every == 0 || std::binary_search(c.positions.begin(), c.positions.end(), position + r)) rows.push_back(r);
    for (std::size_t first = 0; first < rows.size(); first += 32) {
      const std::size_t count = std::min<std::size_t>(32, rows.size() - first);
      blockattn::matrix some(static_cast<index_t>(count), hidden.cols());
      for (std::size_t r = 0; r < count; ++r) some.row(static_cast<index_t>(r)) = hidden.row(rows[first + r]);
      std::vector<float> logits(count * static_cast<std::size_t>(vocabulary()));
      decode_->project(some.data(), some.rows(), logits.data(), compute_);
      for (std::size_t r = 0; r < count; ++r)
        sink(position + rows[first + r], std::span(logits).subspan(r * static_cast<std::size_t>(vocabulary()), static_cast<std::size_t>(vocabulary())));
    }
  }

  blockattn::gguf_file file_;
  std::unique_ptr<const blockattn::decoder> decode_;
  blockattn::compute_options compute_;
  blockattn::kv_layout layout_;
};

void check_checkpoint(const std::optional<std::filesystem::path>& path, const std::string& name, index_t every) {
  if (!path) {
    WARN(name << " is left out: scripts/test --models all fetches it");
    return;
  }
  const auto golden = blockattn_test::parse_golden(blockattn_test::read_bytes(blockattn_test::golden_path(name + ".golden")));
  REQUIRE(golden.model_bytes == std::filesystem::file_size(*path));
  const checkpoint exact(*path, blockattn::arithmetic::f32), fast(*path, blockattn::arithmetic::fast);
  golden_figures exact_sum, fast_sum;
  for (const golden_case& c : golden.cases) {
    INFO(c.name);
    const std::vector<float> oracle = blockattn_test::streamed_logits(exact.file(), c.hidden);
    const auto compare = [&](const checkpoint& engine, index_t step) {
      return blockattn_test::compare_with(c, oracle, static_cast<std::size_t>(golden.vocabulary), [&](const logits_sink& sink) { engine.run(c, step, sink); });
    };
    exact_sum += compare(exact, every);
    fast_sum += compare(fast, c.tokens());  // the sampled positions
  }
  print(name + ", exact", exact_sum);
  print(name + ", fast", fast_sum);
  CHECK(exact_sum.samples == 42);
  CHECK(exact_sum.top1() >= 0.995);
  CHECK(exact_sum.mean_kl() <= 1e-4);
  CHECK(fast_sum.mean_kl() <= fast_sum.llama_kl());
}

}  // namespace

TEST_CASE("golden: Qwen2.5-Coder-0.5B", "[golden][slow]") { check_checkpoint(blockattn_test::qwen_path(), "qwen2.5-coder-0.5b", 3); }

TEST_CASE("golden: Gemma 3 270M", "[golden][slow]") { check_checkpoint(blockattn_test::gemma_path(), "gemma-3-270m", 6); }
