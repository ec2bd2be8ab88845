// generate/stop_strings.hpp: cases by hand, and random streams in random pieces against a naive search.
#include "blockattn/generate/stop_strings.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

using namespace blockattn;
using Catch::Matchers::Contains;

namespace {

using strings = std::vector<std::string>;

struct outcome {
  std::string text;
  std::string match;  // "" if none
  bool operator==(const outcome&) const = default;
};

/// Tries every end, then every stop string: the definition.
outcome naive(const strings& stops, const std::string& stream) {
  for (std::size_t end = 1; end <= stream.size(); ++end) {
    std::string best;
    for (const auto& stop : stops)
      if (stop.size() <= end && stop.size() > best.size() && stream.compare(end - stop.size(), stop.size(), stop) == 0)
        best = stop;
    if (!best.empty()) return {stream.substr(0, end - best.size()), best};
  }
  return {stream, ""};
}

/// How many bytes of the stream's end may still become a stop string.
std::size_t naive_hold(const strings& stops, const std::string& stream) {
  std::size_t hold = 0;
  for (const auto& stop : stops)
    for (std::size_t n = 1; n < stop.size() && n <= stream.size(); ++n)
      if (stream.compare(stream.size() - n, n, stop, 0, n) == 0) hold = std::max(hold, n);
  return hold;
}

outcome streamed(stop_strings& matcher, const strings& pieces) {
  outcome result;
  for (const auto& piece : pieces) result.text += matcher.push(piece);
  result.text += matcher.finish();
  result.match = matcher.match().value_or("");
  return result;
}

outcome run(const strings& stops, const strings& pieces) {
  stop_strings matcher(stops);
  return streamed(matcher, pieces);
}

}  // namespace

TEST_CASE("stop_strings: text before the stop string comes out, and nothing after", "[generate][stop_strings]") {
  CHECK(run({"STOP"}, {"hello STOP world"}) == outcome{"hello ", "STOP"});
  CHECK(run({"STOP"}, {"hello ST", "OP world", "more"}) == outcome{"hello ", "STOP"});
  CHECK(run({"STOP"}, {"S", "T", "O", "P"}) == outcome{"", "STOP"});
  CHECK(run({"STOP"}, {"hello STO"}) == outcome{"hello STO", ""});
  CHECK(run({"STOP"}, {"STOSTOP"}) == outcome{"STO", "STOP"});
  CHECK(run({"aab"}, {"aaaab"}) == outcome{"aa", "aab"});
  CHECK(run({"\n\n", "User:"}, {"fine.\n", "User", ": x"}) == outcome{"fine.\n", "User:"});
  CHECK(run({}, {"anything", " at all"}) == outcome{"anything at all", ""});
  CHECK(run({"x"}, {}) == outcome{"", ""});
}

TEST_CASE("stop_strings: the first completed one counts; of several that end together, the longest",
          "[generate][stop_strings]") {
  CHECK(run({"abcd", "bc"}, {"xabcd"}) == outcome{"xa", "bc"});
  CHECK(run({"c", "bc", "abc"}, {"xabc"}) == outcome{"x", "abc"});
  CHECK(run({"abc", "bc", "c"}, {"xabc"}) == outcome{"x", "abc"});
  CHECK(run({"world", "hello"}, {"hello world"}) == outcome{"", "hello"});
  CHECK(run({"same", "same"}, {"the same"}) == outcome{"the ", "same"});
}

TEST_CASE("stop_strings: what can't become a stop string is not held back", "[generate][stop_strings]") {
  stop_strings matcher({"</s>", "<|end|>"});
  CHECK(matcher.push("a < b") == "a < b");
  CHECK(matcher.push(" <") == " ");
  CHECK(matcher.push("") == "");
  CHECK(matcher.push("|e") == "");
  CHECK(matcher.push("x") == "<|ex");
  CHECK(matcher.push("<<") == "<");
  CHECK(matcher.push("/s") == "");
  CHECK_FALSE(matcher.stopped());
  CHECK(matcher.push("> and more") == "");
  CHECK(matcher.stopped());
  CHECK(matcher.match() == "</s>");
  CHECK(matcher.push("more") == "");
  CHECK(matcher.finish() == "");
  CHECK(matcher.stopped());
}

TEST_CASE("stop_strings: finish gives what was held and begins anew", "[generate][stop_strings]") {
  stop_strings matcher({"ab"});
  CHECK(matcher.push("xa") == "x");
  CHECK(matcher.finish() == "a");
  CHECK(matcher.finish() == "");
  CHECK(matcher.push("b") == "b");  // doesn't continue the old stream
  CHECK_FALSE(matcher.stopped());
  CHECK(matcher.push("ab") == "");
  CHECK(matcher.stopped());
}

TEST_CASE("stop_strings: whole characters in, whole characters out", "[generate][stop_strings]") {
  stop_strings matcher({"é!"});                     // c3 a9 21
  CHECK(matcher.push("caf\u00e8") == "caf\u00e8");  // c3 a8: shares the first byte
  CHECK(matcher.push("caf\u00e9") == "caf");
  CHECK(matcher.push("\u00e9?") == "\u00e9\u00e9?");
}

TEST_CASE("stop_strings: bytes of any value", "[generate][stop_strings]") {
  const std::string zero("\0\xff", 2);
  CHECK(run({zero}, {std::string("a\0", 2), "\xff"}) == outcome{"a", zero});
}

TEST_CASE("stop_strings: an empty stop string is an error", "[generate][stop_strings]") {
  CHECK_THROWS_AS(stop_strings({"ok", ""}), argument_error);
  CHECK_THROWS_WITH(stop_strings({"ok", ""}), Contains("[stop_strings] stop string 1 of 2 is empty"));
}

TEST_CASE("stop_strings: random streams, pieces and stop strings agree with the naive search",
          "[generate][stop_strings]") {
  std::mt19937_64 random(7);
  const auto text = [&](std::size_t most, std::uint64_t letters) {
    std::string result(1 + random() % most, ' ');
    for (char& c : result) c = static_cast<char>('a' + random() % letters);
    return result;
  };
  int stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::uint64_t letters = 1 + random() % 3;
    strings stops(random() % 4);
    for (auto& stop : stops) stop = text(6, letters);
    const std::string stream = text(40, letters + random() % 2);
    stop_strings matcher(stops);
    std::string given, seen;
    const outcome expected = naive(stops, stream);
    for (std::size_t at = 0; at < stream.size();) {
      const std::string piece = stream.substr(at, random() % 5);
      at += piece.size();
      seen += piece;
      given += matcher.push(piece);
      if (!matcher.stopped())
        REQUIRE(given.size() + naive_hold(stops, seen) == seen.size());  // as much as possible, as soon as possible
    }
    given += matcher.finish();
    REQUIRE(outcome{given, matcher.match().value_or("")} == expected);
    stopped += matcher.stopped() ? 1 : 0;
  }
  CHECK(stopped > 2000);
  CHECK(stopped < 18000);
}

TEST_CASE("stop_strings: linear in the text, even for repetitive ones", "[generate][stop_strings]") {
  std::string stop(5000, 'a');
  stop.push_back('b');
  stop_strings matcher({stop});
  std::string given;
  for (int i = 0; i < 2000; ++i) given += matcher.push(std::string(100, 'a'));
  CHECK(given.size() == 2000 * 100 - 5000);
  CHECK(matcher.push("b") == "");
  CHECK(matcher.stopped());
}
