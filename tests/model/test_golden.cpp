// The whole model against the oracle: 20 prompts in full mode, 8 in block mode with several plans. Data and figures:
// scripts/golden/README.md.
//
// Bounds. Exact arithmetic: the same most probable token in 99.5 % of positions, mean KL(oracle || engine) at most 1e-4
// at the sampled positions. Fast arithmetic: mean KL not above that of llama.cpp to the same oracle on the same file at
// the same positions.

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "blockattn/model/model.hpp"
#include "support/golden_compare.hpp"

namespace {

using blockattn::index_t;
using blockattn::token_id;
using blockattn_test::compare;
using blockattn_test::golden;
using blockattn_test::golden_case;
using blockattn_test::golden_case_named;
using blockattn_test::golden_figures;
using blockattn_test::logits_sink;

/// How encoded blocks are placed behind each other.
enum class placing { queries_rotated, keys_rotated, not_at_all };

/// Runs golden prompts through a model's lowest calls: encode, moved, forward, logits.
class runner {
 public:
  explicit runner(blockattn::precision compute) : model_(load(compute)) {}

  /// Runs a prompt as its plan says: local blocks are encoded and placed, the rest runs behind them. With `inside`, the
  /// sink sees the positions inside of local blocks, too (each block runs by itself at its place in the prompt), which
  /// don't depend on how blocks are placed.
  void run(const golden_case& c, placing how, bool inside, const logits_sink& sink) {
    std::vector<blockattn::placed_block> context;
    index_t offset = 0;
    for (index_t b = 0; b < c.local; ++b) {
      const index_t length = c.lengths[static_cast<std::size_t>(b)];
      const auto ids = part(c, offset, length);
      blockattn::kv_tail alone(model_.kv());
      if (inside) project(model_.forward({ids, offset, {}, blockattn::hidden_rows::all}, alone), offset, sink);
      context.push_back(place(encoded(ids), offset, how));
      offset += length;
    }
    blockattn::kv_tail tail(model_.kv());
    const auto rest = part(c, offset, c.tokens() - offset);
    project(model_.forward({rest, offset, context, blockattn::hidden_rows::all}, tail), offset, sink);
  }

  /// Runs a prompt in full mode one token at a time, as an answer is generated.
  void run_step_by_step(const golden_case& c, const logits_sink& sink) {
    blockattn::kv_tail tail(model_.kv());
    for (index_t t = 0; t < c.tokens(); ++t)
      project(model_.forward({part(c, t, 1), t, {}, blockattn::hidden_rows::last}, tail), t, sink);
  }

  [[nodiscard]] const blockattn::model& get() const { return model_; }

 private:
  static blockattn::model load(blockattn::precision compute) {
    blockattn::load_options options;
    options.compute = compute;
    return blockattn::model::load(blockattn_test::model_path(), options);
  }

  static std::span<const token_id> part(const golden_case& c, index_t first, index_t count) {
    return std::span(c.ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  }

  /// Blocks that several plans share are encoded once.
  std::shared_ptr<const blockattn::kv_block> encoded(std::span<const token_id> ids) {
    auto& block = blocks_[std::vector<token_id>(ids.begin(), ids.end())];
    if (block == nullptr) block = model_.encode(ids);
    return block;
  }

  [[nodiscard]] blockattn::placed_block place(const std::shared_ptr<const blockattn::kv_block>& block, index_t offset,
                                              placing how) const {
    switch (how) {
      case placing::queries_rotated: return {block, offset, false};
      case placing::keys_rotated: return {model_.moved(*block, offset), offset, true};
      default:
        return {block, offset, true};  // wrong on purpose: called rotated, but the keys are still at local positions
    }
  }

  /// Gives the logits of all rows of `hidden` to the sink, some at a time: a long prompt's would take hundreds of
  /// megabytes.
  void project(const blockattn::matrix& hidden, index_t position, const logits_sink& sink) const {
    const auto vocabulary = static_cast<std::size_t>(model_.config().vocabulary);
    for (index_t first = 0; first < hidden.rows(); first += 64) {
      const blockattn::matrix piece = hidden.middleRows(first, std::min<index_t>(64, hidden.rows() - first));
      const std::vector<float> logits = model_.logits(piece);
      for (index_t r = 0; r < piece.rows(); ++r)
        sink(position + first + r, std::span(logits).subspan(static_cast<std::size_t>(r) * vocabulary, vocabulary));
    }
  }

  blockattn::model model_;
  std::map<std::vector<token_id>, std::shared_ptr<const blockattn::kv_block>> blocks_;
};

/// All full-mode (or all block-mode) prompts. The environment's BLOCKATTN_GOLDEN_VERBOSE prints each of them.
golden_figures compare_all(blockattn::precision compute, bool full, placing how, bool inside = true) {
  runner engine(compute);
  golden_figures sum;
  for (const golden_case& c : golden().cases) {
    if (c.full() != full) continue;
    INFO(c.name);
    const golden_figures f = compare(c, [&](const logits_sink& sink) { engine.run(c, how, inside, sink); });
    const index_t border = inside ? 0 : std::accumulate(c.lengths.begin(), c.lengths.begin() + c.local, index_t{0});
    REQUIRE(f.positions == c.tokens() - border);
    REQUIRE(f.samples == c.positions.end() - std::lower_bound(c.positions.begin(), c.positions.end(), border));
    if (std::getenv("BLOCKATTN_GOLDEN_VERBOSE") != nullptr) print(c.name, f);
    sum += f;
  }
  return sum;
}

void check_exact(const golden_figures& f) {
  CHECK(f.top1() >= 0.995);
  CHECK(f.mean_kl() <= 1e-4);
  CHECK(f.kl_worst <= 1e-4);       // stricter than what is promised: no position is left out
  CHECK(f.worst_margin <= 0.05F);  // whatever differs must have been a tie
}

void check_fast(const golden_figures& f) { CHECK(f.mean_kl() <= f.llama_kl()); }

}  // namespace

TEST_CASE("golden: KL of known distributions", "[golden]") {
  using blockattn_test::kl_divergence;
  const std::vector<float> even{1, 1}, odds{std::log(3.0F), 0};  // (1/2, 1/2) and (3/4, 1/4)
  CHECK(kl_divergence(even, even) == Approx(0).margin(1e-15));
  CHECK(kl_divergence(even, odds) == Approx(0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25)));
  CHECK(kl_divergence(odds, even) == Approx(0.75 * std::log(0.75 / 0.5) + 0.25 * std::log(0.25 / 0.5)));
  const std::vector<float> far{1000, 1000};  // shifted by a constant: the same distribution
  CHECK(kl_divergence(even, far) == Approx(0).margin(1e-12));
  CHECK(std::isnan(kl_divergence(even, std::vector<float>{std::nanf(""), 1})));
}

TEST_CASE("golden: the data is whole and belongs to the test model", "[golden]") {
  CHECK(golden().model_bytes == std::filesystem::file_size(blockattn_test::model_path()));
  index_t full = 0, block = 0, shortest = 1000000, longest = 0;
  for (const golden_case& c : golden().cases) {
    INFO(c.name);
    ++(c.full() ? full : block);
    CHECK(std::accumulate(c.lengths.begin(), c.lengths.end(), index_t{0}) == c.tokens());
    CHECK(c.local < static_cast<index_t>(c.lengths.size()));
    CHECK(c.positions.back() == c.tokens() - 1);
    CHECK(std::is_sorted(c.positions.begin(), c.positions.end()));
    if (!c.full()) continue;
    shortest = std::min(shortest, c.tokens());
    longest = std::max(longest, c.tokens());
  }
  CHECK(full == 20);
  CHECK(block == 12);
  CHECK(shortest == 1);
  CHECK(longest > 1900);
}

TEST_CASE("golden: data cut short or changed is refused", "[golden]") {
  using blockattn_test::parse_golden;
  const std::vector<char> bytes = blockattn_test::read_bytes(blockattn_test::golden_path("smollm2-135m-q4_1.golden"));
  for (const std::size_t keep : {std::size_t{0}, std::size_t{7}, std::size_t{60}, bytes.size() / 2, bytes.size() - 1}) {
    INFO("the first " << keep << " bytes");
    CHECK_THROWS_AS(parse_golden({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(keep)}),
                    std::runtime_error);
  }
  std::vector<char> changed = bytes;
  changed.push_back(0);
  CHECK_THROWS_AS(parse_golden(changed), std::runtime_error);
  changed = bytes;
  changed[0] = 'X';
  CHECK_THROWS_AS(parse_golden(changed), std::runtime_error);
}

TEST_CASE("golden: the tokenizer gives the stored ids of the prompts", "[golden]") {
  const auto words = blockattn::tokenizer::from_gguf(blockattn::gguf_file(blockattn_test::model_path()));
  for (const golden_case& c : golden().cases) {
    if (!c.full()) continue;
    INFO(c.name);
    const std::vector<char> text = blockattn_test::read_bytes(blockattn_test::prompt_path(c.name + ".txt"));
    const std::string prompt(text.begin(), text.end() - (text.back() == '\n' ? 1 : 0));
    CHECK(words.encode(prompt) == c.ids);
  }
}

TEST_CASE("golden: stored hidden states give the stored tokens and margins", "[golden]") {
  const auto vocabulary = static_cast<std::size_t>(golden().vocabulary);
  for (const golden_case& c : golden().cases) {
    const std::vector<float> logits = blockattn_test::golden_head().logits(c.hidden);
    REQUIRE(logits.size() == c.positions.size() * vocabulary);
    for (std::size_t s = 0; s < c.positions.size(); ++s) {
      INFO(c.name << " position " << c.positions[s]);
      const auto at = static_cast<std::size_t>(c.positions[s]);
      const auto view = std::span(logits).subspan(s * vocabulary, vocabulary);
      std::vector<float> row(view.begin(), view.end());
      const float first = std::exchange(row[static_cast<std::size_t>(c.argmax[at])], -1e30F);
      const float second = *std::max_element(row.begin(), row.end());
      CHECK(first - second == Approx(c.margin[at]).margin(0.02));  // both sides are rounded to float16
    }
  }
}

TEST_CASE("golden: exact, full mode", "[golden][slow]") {
  const auto f = compare_all(blockattn::precision::exact, true, placing::queries_rotated);
  print("exact, full", f);
  check_exact(f);
}

TEST_CASE("golden: exact, block mode, queries rotated", "[golden][slow]") {
  const auto f = compare_all(blockattn::precision::exact, false, placing::queries_rotated);
  print("exact, block, queries rotated", f);
  check_exact(f);
}

TEST_CASE("golden: exact, block mode, keys rotated", "[golden][slow]") {
  const auto f = compare_all(blockattn::precision::exact, false, placing::keys_rotated, false);
  print("exact, block, keys rotated", f);
  check_exact(f);
}

TEST_CASE("golden: fast, full mode", "[golden][slow]") {
  const auto f = compare_all(blockattn::precision::fast, true, placing::queries_rotated);
  print("fast, full", f);
  check_fast(f);
}

TEST_CASE("golden: fast, block mode, queries rotated", "[golden][slow]") {
  const auto f = compare_all(blockattn::precision::fast, false, placing::queries_rotated);
  print("fast, block, queries rotated", f);
  check_fast(f);
}

TEST_CASE("golden: fast, block mode, keys rotated", "[golden][slow]") {
  const auto f = compare_all(blockattn::precision::fast, false, placing::keys_rotated, false);
  print("fast, block, keys rotated", f);
  check_fast(f);
}

TEST_CASE("golden: one token at a time", "[golden][slow]") {
  for (const auto compute : {blockattn::precision::exact, blockattn::precision::fast}) {
    runner engine(compute);
    golden_figures sum;
    for (const char* name :
         {"full/01_one_token", "full/02_capital", "full/03_sentence", "full/04_paragraph", "full/05_instructions"})
      sum += compare(golden_case_named(name),
                     [&](const logits_sink& sink) { engine.run_step_by_step(golden_case_named(name), sink); });
    const bool exact = compute == blockattn::precision::exact;
    print(exact ? "exact, one token at a time" : "fast, one token at a time", sum);
    exact ? check_exact(sum) : check_fast(sum);
  }
}

TEST_CASE("golden: the bounds notice blocks left at local positions", "[golden]") {
  runner engine(blockattn::precision::exact);
  const golden_case& c = golden_case_named("block/02_five_passages");
  const auto f = compare(c, [&](const logits_sink& sink) { engine.run(c, placing::not_at_all, false, sink); });
  print("exact, block, not re-encoded (wrong)", f);
  CHECK(f.mean_kl() > 0.01);
  CHECK(f.mean_kl() > 2 * f.llama_kl());
}
