// Attention plans against transformers with the plan's mask and positions (scripts/golden/make_plan_golden.py).
#include <catch2/catch.hpp>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/generate/session.hpp"
#include "support/data_path.hpp"
#include "support/divergence.hpp"
#include "support/model_path.hpp"
#include "support/oracle_head.hpp"

using namespace blockattn;

namespace {

using prompt = std::vector<std::vector<token_id>>;

/// The file that scripts/golden/make_plan_golden.py describes.
struct plan_golden {
  struct item {
    std::string plan;
    std::size_t prompt;
    std::optional<token_id> next;
    std::vector<float> hidden;  ///< [1 or 2, D]
  };
  std::vector<prompt> prompts;
  std::vector<item> items;

  explicit plan_golden(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    if (bytes_.substr(0, 8) != "BAPLAN01") throw std::runtime_error("no golden data of plans: " + path);
    at_ = 8;
    const auto width = number<std::uint32_t>();
    for (auto n = number<std::uint32_t>(); n > 0; --n) {
      prompts.emplace_back();
      for (auto blocks = number<std::uint32_t>(); blocks > 0; --blocks) {
        prompts.back().emplace_back();
        for (auto ids = number<std::uint32_t>(); ids > 0; --ids) prompts.back().back().push_back(number<std::uint16_t>());
      }
    }
    for (auto n = number<std::uint32_t>(); n > 0; --n) {
      item i;
      const auto length = number<std::uint32_t>();
      i.plan = bytes_.substr(at_, length);
      at_ += length;
      i.prompt = number<std::uint32_t>();
      const auto next = number<std::uint32_t>();
      if (next != 0xFFFFFFFFU) i.next = static_cast<token_id>(next);
      for (std::uint32_t d = 0; d < width * (i.next ? 2 : 1); ++d) i.hidden.push_back(f16_to_f32(number<std::uint16_t>()));
      items.push_back(std::move(i));
    }
  }

 private:
  template <class Number>
  Number number() {
    Number value;
    if (at_ + sizeof value > bytes_.size()) throw std::runtime_error("golden data of plans end early");
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string bytes_;
  std::size_t at_ = 0;
};

}  // namespace

TEST_CASE("every plan gives what transformers gives with its mask and positions", "[plans][golden][model]") {
  const plan_golden golden(blockattn_test::golden_path("plans-smollm2.golden"));
  const model m = model::load(blockattn_test::model_path(), {precision::exact});
  const blockattn_test::oracle_head head(m.file());
  const auto cache = std::make_shared<block_cache>(std::size_t{64} << 20);
  std::map<std::string, std::pair<double, int>> of_plan;
  for (const plan_golden::item& item : golden.items) {
    session s(m, cache);
    std::vector<std::vector<float>> mine = {s.logits_of_ids(golden.prompts[item.prompt], parse_plan(item.plan))};
    if (item.next) mine.push_back(s.logits_of_ids({{*item.next}}));
    const std::vector<float> theirs = head.logits(item.hidden);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const auto reference = std::span(theirs).subspan(i * mine[i].size(), mine[i].size());
      const double kl = blockattn_test::kl_divergence(reference, mine[i]);
      INFO(item.plan << ", prompt " << item.prompt << ", position " << i << ": KL " << kl);
      CHECK(kl < 1e-3);
      auto& [sum, count] = of_plan[item.plan];
      sum += kl;
      ++count;
    }
  }
  CHECK(of_plan.size() == 12);
  for (const auto& [plan, of] : of_plan) {
    const double mean = of.first / of.second;
    std::printf("  %-42s mean KL %.2e over %d\n", plan.c_str(), mean, of.second);
    CHECK(mean <= 1e-4);
  }
}
