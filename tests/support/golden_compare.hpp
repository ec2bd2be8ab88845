// Compares an engine with the oracle's golden data: top-1 at every position, KL at the sampled ones, and llama.cpp's KL
// there for scale.
#pragma once

#include <algorithm>
#include <cstdio>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "blockattn/io/gguf.hpp"
#include "support/data_path.hpp"
#include "support/divergence.hpp"
#include "support/golden_file.hpp"
#include "support/model_path.hpp"
#include "support/oracle_head.hpp"

namespace blockattn_test {

/// The committed data of the test model, read once.
inline const golden_file& golden() {
  static const golden_file file = parse_golden(read_bytes(golden_path("smollm2-135m-q4_1.golden")));
  return file;
}

inline const golden_case& golden_case_named(const std::string& name) {
  const auto found =
      std::find_if(golden().cases.begin(), golden().cases.end(), [&](const golden_case& c) { return c.name == name; });
  if (found == golden().cases.end()) throw std::runtime_error("golden data: no case '" + name + "'");
  return *found;
}

/// The test model's output matrix, read once.
inline const oracle_head& golden_head() {
  static const oracle_head head{blockattn::gguf_file(model_path())};
  return head;
}

/// Takes the logits [V] that follow the token at a position.
using logits_sink = std::function<void(blockattn::index_t position, std::span<const float> logits)>;

/// Figures of one prompt, or of several added up.
struct golden_figures {
  blockattn::index_t positions = 0, equal = 0, samples = 0;
  double kl_sum = 0, kl_worst = 0, llama_sum = 0;
  float worst_margin = 0;  ///< largest margin of the oracle where the engine prefers another token

  [[nodiscard]] double mean_kl() const { return kl_sum / static_cast<double>(samples); }
  [[nodiscard]] double llama_kl() const { return llama_sum / static_cast<double>(samples); }
  [[nodiscard]] double top1() const { return static_cast<double>(equal) / static_cast<double>(positions); }

  void operator+=(const golden_figures& other) {
    positions += other.positions;
    equal += other.equal;
    samples += other.samples;
    kl_sum += other.kl_sum;
    kl_worst = std::max(kl_worst, other.kl_worst);
    llama_sum += other.llama_sum;
    worst_margin = std::max(worst_margin, other.worst_margin);
  }
};

/// Runs `engine` with a sink that compares what it is given with the oracle, whose logits [S, V] at the sampled positions are `oracle`.
inline golden_figures compare_with(const golden_case& c, std::span<const float> oracle, std::size_t vocabulary, const std::function<void(const logits_sink&)>& engine) {
  golden_figures f;
  engine([&](blockattn::index_t position, std::span<const float> logits) {
    const auto at = static_cast<std::size_t>(position);
    ++f.positions;
    if (static_cast<blockattn::token_id>(argmax(logits)) == c.argmax.at(at))
      ++f.equal;
    else
      f.worst_margin = std::max(f.worst_margin, c.margin[at]);
    const auto sample = std::lower_bound(c.positions.begin(), c.positions.end(), position);
    if (sample == c.positions.end() || *sample != position) return;
    const auto s = static_cast<std::size_t>(sample - c.positions.begin());
    const double kl = kl_divergence(oracle.subspan(s * vocabulary, vocabulary), logits);
    ++f.samples;
    f.kl_sum += kl;
    f.kl_worst = std::max(f.kl_worst, kl);
    f.llama_sum += c.llama_kl[s];
  });
  return f;
}

/// The same for the test model.
inline golden_figures compare(const golden_case& c, const std::function<void(const logits_sink&)>& engine) {
  const std::vector<float> oracle = golden_head().logits(c.hidden);
  return compare_with(c, oracle, static_cast<std::size_t>(golden().vocabulary), engine);
}

/// One line on standard output: the figures that documentation quotes.
inline void print(const std::string& what, const golden_figures& f) {
  std::printf(
      "golden %-40s %5ld positions, top-1 %.3f %% (worst margin missed %.3f), %3ld samples: KL %.2e, worst %.2e; "
      "llama.cpp %.2e, ratio %.4f\n",
      what.c_str(), static_cast<long>(f.positions), 100 * f.top1(), static_cast<double>(f.worst_margin),
      static_cast<long>(f.samples), f.mean_kl(), f.kl_worst, f.llama_kl(), f.mean_kl() / f.llama_kl());
  std::fflush(stdout);
}

}  // namespace blockattn_test
