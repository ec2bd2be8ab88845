// What a model takes of memory besides its mapped file: keys and values, and a bounded room to work in.
#include <catch2/catch.hpp>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "blockattn/model/model.hpp"
#include "support/model_path.hpp"

#if !defined(__SANITIZE_ADDRESS__) && !defined(BLOCKATTN_TSAN)  // these keep books of their own in memory

using namespace blockattn;

namespace {

/// Bytes of this process's resident memory that belong to no file.
std::int64_t resident_own() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  return -1;
}

}  // namespace

TEST_CASE("a model takes its file, its keys and values, its weights' copy if there is one, and at most 64 MiB", "[model][memory]") {
  const std::int64_t before = resident_own();
  REQUIRE(before > 0);
  const model m = model::load(blockattn_test::model_path());
  const std::int64_t opened = resident_own();
  CHECK(opened - before < std::int64_t{50} * 1000 * 1000);
  const index_t tokens = 1400;
  std::vector<token_id> ids;
  for (index_t i = 0; i < tokens; ++i) ids.push_back(static_cast<token_id>(300 + i * 7 % 20000));
  std::int64_t most = 0;
  forward_control control;
  control.progress = [&](std::int64_t, std::int64_t) {
    most = std::max(most, resident_own());
    return true;
  };
  kv_tail tail(m.kv(), tokens);
  const auto logits = m.logits(m.forward({ids, 0, {}, hidden_rows::last}, tail, control));
  most = std::max(most, resident_own());
  CHECK(logits.size() == static_cast<std::size_t>(m.config().vocabulary));
  CHECK(most > opened + tail.bytes() / 2);  // it does measure
  CHECK(most - before < tail.bytes() + static_cast<std::int64_t>(m.repacked_bytes()) + (std::int64_t{64} << 20));
}

#endif
