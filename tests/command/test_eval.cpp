// `eval`: question sets, prompts, the measure, resuming, and the command itself.
#include <catch2/catch.hpp>

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "blockattn/core/error.hpp"
#include "command_runner.hpp"
#include "eval_questions.hpp"
#include "eval_report.hpp"
#include "support/model_path.hpp"

using namespace blockattn_command;
using blockattn_test::run_command;
using blockattn_test::scratch_folder;
using Catch::Contains;

namespace {

constexpr const char* shipped = BLOCKATTN_SOURCE_DIR "/examples/questions_check.jsonl";

std::string line(const std::string& question, const std::string& answer, const std::string& text) {
  return json({{"question", question}, {"answers", {answer}}, {"title", "T"}, {"text", text}}).dump() + "\n";
}

}  // namespace

TEST_CASE("question sets are read, packed or not", "[eval]") {
  const scratch_folder folder;
  const std::string content = line("Who?", "Ann", "Ann did.") + "\n" + line("Where?", "Rome", "In Rome.");
  folder.write("plain.jsonl", content);
  const std::string packed = (folder / "packed.jsonl.gz").string();
  gzFile out = gzopen(packed.c_str(), "wb");
  REQUIRE(gzwrite(out, content.data(), static_cast<unsigned>(content.size())) == static_cast<int>(content.size()));
  gzclose(out);
  for (const std::string& file : {(folder / "plain.jsonl").string(), packed}) {
    const auto questions = read_questions(file);
    REQUIRE(questions.size() == 2);
    CHECK(questions[1].question == "Where?");
    CHECK(questions[1].answers == std::vector<std::string>{"Rome"});
    CHECK(questions[1].gold.body == "In Rome.");
  }
  CHECK(read_questions(shipped).size() == 100);
}

TEST_CASE("faults of a question set are named with their line", "[eval]") {
  const scratch_folder folder;
  const std::string good = line("Who?", "Ann", "Ann did.");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {good + "{\"question\": \"Q\"}\n", "line 2: no \"title\""}, {good + "\n[1]\n", "line 3: not a JSON object"}, {"{\"question\": 1}\n", "line 1: no \"question\""},
      {good + good + "{", "line 3: not a JSON object"}, {line("Q", "the", "t"), "line 1: no \"answers\""}, {"\n", "no questions"}};
  for (const auto& [content, message] : bad) {
    folder.write("q.jsonl", content);
    CHECK_THROWS_WITH(read_questions((folder / "q.jsonl").string()), Contains(message));
  }
  CHECK_THROWS_AS(read_questions((folder / "none").string()), blockattn::io_error);
  std::string cut("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56", 12);
  folder.write("cut.gz", cut);
  CHECK_THROWS_AS(read_questions((folder / "cut.gz").string()), blockattn::error);
}

TEST_CASE("answers are compared as best_subspan_em says", "[eval]") {
  CHECK(normalised_answer("  The Quick,\tbrown-fox: an \xC3\x89t\xC3\xA9! A theory\n") == "quick brownfox \xC3\xA9t\xC3\xA9 theory");
  CHECK(normalised_answer("\xFF the") == "\xEF\xBF\xBD");
  CHECK(contains_answer("It was in the U.S.A., I think.", {"Rome", "USA"}));
  CHECK_FALSE(contains_answer("It was Rom", {"Rome"}));
}

TEST_CASE("prompts hold the gold passage once among others without an answer, the same for the same seed", "[eval]") {
  const auto questions = read_questions(shipped);
  passage_pool pool;
  pool.add(questions);
  std::set<std::size_t> places;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const auto passages = pool.prompt_passages(questions[i], 10, 1, i);
    REQUIRE(passages.size() == 10);
    CHECK(std::count(passages.begin(), passages.end(), questions[i].gold) == 1);
    for (std::size_t k = 0; k < passages.size(); ++k) {
      if (passages[k] == questions[i].gold) places.insert(k);
      else CHECK_FALSE(contains_answer(passages[k].title + " " + passages[k].body, questions[i].answers));
      CHECK(std::count(passages.begin(), passages.end(), passages[k]) == 1);
    }
    CHECK(passages == pool.prompt_passages(questions[i], 10, 1, i));
  }
  CHECK(places.size() == 10);
  CHECK(pool.prompt_passages(questions[0], 1, 1, 0) == std::vector<passage>{questions[0].gold});
  CHECK_THROWS_WITH(pool.prompt_passages(questions[0], 1000, 1, 0), Contains("--passages 1000"));
}

TEST_CASE("intervals and paired differences", "[eval]") {
  const interval i = with_interval({1, 0, 1, 1});
  CHECK(i.value == Approx(75));
  CHECK(i.half == Approx(196 * 0.25));
  CHECK(with_interval({1}).half == 0);
  CHECK(with_interval({}).value == 0);
  std::vector<eval_row> rows(2);
  rows[0].configuration.plan = "full";
  rows[1].configuration = {"epic:k=<2>", 5, 3, "q8_0", "", false};
  for (const bool hit : {true, true, false, false}) rows[0].answers.push_back({"", hit, 1e9, 2e9, 10, 20, 100, 1000});
  for (const bool hit : {true, false, false, false}) rows[1].answers.push_back({"", hit, 1e8, 2e9, 1, 20, 100, 1000});
  const json table = rows_json(rows);
  CHECK(table[0]["best_subspan_em"] == 50.0);
  CHECK(table[1]["difference"]["value"] == -25.0);
  CHECK(table[1]["difference"]["to"] == "full");
  CHECK(table[1]["difference"]["interval"] == Approx(49.0));
  CHECK(table[1]["kind"] == "approximate");
  CHECK(table[1]["flops"] == 1e8);
  CHECK_THAT(rows_table(rows), Contains("epic:k=<2> p5 g3 q8_0") && Contains("50.0"));
  CHECK_THAT(rows_svg(rows), Contains("<svg") && Contains("epic:k=&lt;2&gt;") && !Contains("nan"));
}

TEST_CASE("answers are kept and found again; another evaluation's are refused", "[eval]") {
  const scratch_folder folder;
  const std::string file = (folder / "state.jsonl").string();
  {
    eval_state state(file, "setup A");
    state.keep("full", 0, {"text \xFF", true, 1, 2, 3, 4, 5, 6});
    state.keep("block", 7, {"other", false, 1, 2, 3, 4, 5, 6});
  }
  std::ofstream(file, std::ios::app) << "{\"configuration\": \"full\", \"que";  // the process was ended here
  {
    eval_state state(file, "setup A");
    REQUIRE(state.find("full", 0) != nullptr);
    CHECK(state.find("full", 0)->hit);
    CHECK(state.find("block", 7)->text == "other");
    CHECK(state.find("block", 0) == nullptr);
    state.keep("block", 0, {});
  }
  CHECK(eval_state(file, "setup A").find("block", 0) != nullptr);
  CHECK_THROWS_WITH(eval_state(file, "setup B"), Contains("another evaluation") && Contains("setup A"));
  folder.write("damaged", "{\"setup\": \"A\"}\n{\"configuration\": 1}\n");
  CHECK_THROWS_WITH(eval_state((folder / "damaged").string(), "A"), Contains("line 2"));
}

TEST_CASE("eval answers questions under plans, goes on where it was, and plots", "[eval][model]") {
  const scratch_folder folder;
  const std::string state = (folder / "state").string(), svg = (folder / "plot.svg").string();
  std::vector<std::string> arguments = {"eval", "-m", blockattn_test::model_path().string(), "--questions", shipped, "--passages", "3", "--limit", "2", "-n", "8", "--plan", "full", "--plan",
                                        "block", "--plan", "epic:k=4", "--state", state, "--svg", svg, "--json", "-t", "2"};
  const auto first = run_command(arguments);
  REQUIRE(first.status == 0);
  const json result = json::parse(first.out);
  REQUIRE(result["rows"].size() == 3);
  for (const json& row : result["rows"]) {
    CHECK(row["n"] == 2);
    CHECK(row["best_subspan_em"] >= 0.0);
  }
  const double full = result["rows"][0]["flops"], block = result["rows"][1]["flops"], epic = result["rows"][2]["flops"];
  CHECK(block < 0.3 * full);
  CHECK(epic > block);
  CHECK(epic < full);
  CHECK(std::filesystem::file_size(svg) > 500);
  const auto again = run_command(arguments);
  CHECK(json::parse(again.out)["rows"] == result["rows"]);  // times too: nothing was computed
  arguments[8] = "1";
  CHECK(json::parse(run_command(arguments).out)["rows"][0]["n"] == 1);
}

TEST_CASE("eval refuses what it can't do before it loads anything", "[eval]") {
  const auto error_of = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"eval", "-m", "none.gguf"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_command(arguments).error;
  };
  CHECK_THAT(error_of({"--questions", shipped, "--plan", "blok"}), Contains("no plan 'blok'") && Contains("superposition"));
  CHECK_THAT(error_of({"--questions", shipped, "--plan", "epic:q=1"}), Contains("no option 'q'"));
  CHECK_THAT(error_of({}), Contains("--questions"));
  CHECK_THAT(error_of({"--questions", shipped, "--passages", "0"}), Contains("--passages"));
  CHECK_THAT(run_command({"run", "-m", "none.gguf", "--blocks", "-", "--plan", "epic", "--mode", "full"}).error, Contains("--mode"));
}
