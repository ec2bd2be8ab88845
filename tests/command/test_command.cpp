// The command as a whole, on the real model.
#include <catch2/catch.hpp>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "blockattn/kernels/cpu.hpp"
#include "command_runner.hpp"
#include "support/model_path.hpp"

using namespace blockattn_test;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

const std::string documents = BLOCKATTN_SOURCE_DIR "/examples/documents";

std::string model() { return model_path().string(); }

std::vector<json> json_lines(const std::string& text) {
  std::vector<json> result;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) result.push_back(json::parse(line));
  return result;
}

/// A prompt file with three blocks, and where logits go.
struct prompt_folder {
  scratch_folder folder;
  std::string blocks = (folder / "prompt.json").string();
  std::string logits = (folder / "logits.bin").string();
  prompt_folder() {
    folder.write(
        "prompt.json",
        R"({"blocks": ["The capital of France is Paris. ", "The capital of Italy is Rome. ", "The capital of Germany is"]})");
  }

  json run(std::vector<std::string> more) const {
    std::vector<std::string> arguments = {"run", "-m", model(), "--blocks", blocks, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const command_result result = run_command(arguments);
    INFO(result.error);
    REQUIRE(result.status == 0);
    return json::parse(result.out);
  }
  std::vector<float> read_logits() const {
    const std::string bytes = blockattn_test::detail::content(logits);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
  }
};

}  // namespace

TEST_CASE("tokenize gives the model's ids", "[command]") {
  CHECK(run_command({"tokenize", "-m", model(), "Hello, world"}).out == "19556 28 905\n");
  CHECK(run_command({"tokenize", "-m", model(), "--jsonl"}, "\"Hello, world\"\n\"a\\nb\"\n\"\"\n").out ==
        "[19556,28,905]\n[81,198,82]\n[]\n");
  const json whole = json::parse(run_command({"tokenize", "-m", model(), "--json"}, "Hello<|im_end|>").out);
  CHECK(whole["token_ids"] == json({19556, 2}));
  CHECK(whole["tokens"] == json({"Hello", "<|im_end|>"}));
  CHECK(json::parse(run_command({"tokenize", "-m", model(), "--json", "--content", "<|im_end|>"}).out)["count"] > 1);
  const command_result repaired = run_command({"tokenize", "-m", model()}, "caf\xe9");
  CHECK(repaired.status == 0);
  CHECK_THAT(repaired.error, Contains("1 invalid UTF-8"));
}

TEST_CASE("inspect shows metadata and tensors", "[command]") {
  const command_result plain = run_command({"inspect", model()});
  CHECK(plain.status == 0);
  CHECK_THAT(plain.out,
             Contains("general.architecture") && Contains("token_embd.weight") && Contains("134515008 parameters"));
  const json file = json::parse(run_command({"inspect", model(), "--json"}).out);
  CHECK(file["metadata"]["llama.block_count"] == 30);
  CHECK(file["metadata"]["tokenizer.ggml.tokens"]["count"] == 49152);
  CHECK(file["tensors"].size() == 272);
  CHECK(file["parameters"] == 134515008);
  const auto quantised = file["types"]["q4_1"]["bytes"].get<std::uint64_t>() + file["types"]["q8_0"]["bytes"].get<std::uint64_t>();
  CHECK(file["repacked_bytes"] == quantised);  // of these types the copy is as large as the weights
  const command_result weights = run_command({"inspect", model(), "--fingerprint"});
  CHECK(weights.out == "a328be324d7f991357c3e75b1b14fe05\n");
  CHECK(
      json::parse(run_command({"inspect", model(), "--fingerprint", "--json"}).out)["fingerprint"].get<std::string>() +
          "\n" ==
      weights.out);
}

TEST_CASE("inspect says what the processor has and which kernels are used", "[command]") {
  const json cpu = json::parse(run_command({"inspect", "--cpu", "--json"}).out);
  CHECK(cpu["levels"].size() == blockattn::all_isas.size());
  CHECK(cpu["levels"][0]["level"] == "portable");
  CHECK(cpu["levels"][0]["supported"] == true);
  const std::string chosen = cpu["chosen"].get<std::string>();
  for (const json& level : cpu["levels"])
    if (level["level"] == chosen) CHECK(level["supported"] == true);
  CHECK_THAT(run_command({"inspect", "--cpu"}).out, Contains(chosen + " ") && Contains("chosen"));
  CHECK(run_command({"inspect"}).status == 2);
}

TEST_CASE("run continues a prompt of blocks", "[command]") {
  const prompt_folder p;
  const json block = p.run({"-n", "4", "--logits", p.logits});
  CHECK(block["text"].get<std::string>().starts_with(" Berlin"));
  CHECK(block["token_ids"].size() == 4);
  CHECK(block["prompt_tokens"] == 21);
  CHECK(block["blocks"] == json({{"total", 2}, {"reused", 0}, {"encoded", 2}}));
  CHECK(block["ttft_ms"] > 0);
  CHECK(block["tokens_per_second"] > 0);
  CHECK(block["finish_reason"] == "length");
  const std::vector<float> logits = p.read_logits();
  REQUIRE(logits.size() == 49152);
  CHECK(std::max_element(logits.begin(), logits.end()) - logits.begin() == block["token_ids"][0].get<std::ptrdiff_t>());

  const json full = p.run({"-n", "0", "--mode", "full", "--logits", p.logits});
  CHECK(full["text"] == "");
  CHECK(full["blocks"]["total"] == 0);
  CHECK(p.read_logits() != logits);
  p.run({"-n", "0", "--max-blocks", "0", "--logits", p.logits});
  const std::vector<float> no_blocks = p.read_logits();
  p.run({"-n", "0", "--mode", "full", "--logits", p.logits});
  CHECK(p.read_logits() == no_blocks);
  CHECK(p.run({"-n", "4", "--rotation", "keys"})["text"] == block["text"]);
}

TEST_CASE("run streams plain text to a pipe", "[command]") {
  const prompt_folder p;
  const command_result result =
      run_command({"run", "-m", model(), "--blocks", "-", "-n", "4"}, R"({"blocks": ["The capital of Germany is"]})");
  CHECK(result.status == 0);
  CHECK_THAT(result.out, Contains("Berlin"));
  CHECK_THAT(result.out + result.error, !Contains("\033"));
  const json sampled = p.run({"-n", "8", "--temp", "0.8", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.05",
                              "--repeat-penalty", "1.1", "--seed", "7"});
  CHECK(sampled == [&] {
    json again = p.run({"-n", "8", "--temp", "0.8", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.05",
                        "--repeat-penalty", "1.1", "--seed", "7"});
    for (const char* time : {"ttft_ms", "prefill_ms", "tokens_per_second"}) again[time] = sampled[time];
    return again;
  }());
  CHECK(p.run({"-n", "16", "--stop", "Berlin"})["finish_reason"] == "stop_string");
}

TEST_CASE("run --chat applies the template", "[command]") {
  const scratch_folder folder;
  folder.write("chat.json",
               R"({"blocks": ["Answer briefly.", "The ferry leaves at 9:40.", "When does the ferry leave?"]})");
  const command_result result =
      run_command({"run", "-m", model(), "--blocks", (folder / "chat.json").string(), "--chat", "-n", "24", "--json"});
  REQUIRE(result.status == 0);
  const json answer = json::parse(result.out);
  CHECK_THAT(answer["text"].get<std::string>(), Contains("9:40"));
  CHECK(answer["blocks"]["total"] == 2);
}

TEST_CASE("ask answers from the sample documents and reuses every passage", "[command]") {
  const scratch_folder cache;
  const std::string question = "What is the name of the wifi network for employees?";
  const command_result result = run_command({"ask", "-m", model(), "--docs", documents, "--cache-dir",
                                             cache.path().string(), "--json", "--compare", question, question});
  INFO(result.error);
  REQUIRE(result.status == 0);
  const std::vector<json> answers = json_lines(result.out);
  REQUIRE(answers.size() == 2);
  CHECK_THAT(answers[0]["text"].get<std::string>(), Contains("Tallgrass-Inside"));
  CHECK(answers[0]["question"] == question);
  CHECK(answers[0]["sources"][0]["file"] == "employee-handbook.md");
  CHECK_THAT(answers[0]["sources"][0]["passage"].get<std::string>(), Contains("Tallgrass-Inside"));
  CHECK(answers[0]["compare"]["full_ttft_ms"] > 0);
  CHECK(answers[0]["index"]["indexed"] == 13);
  CHECK(answers[0]["index"]["passages"] >= 36);
  CHECK(answers[0]["blocks"]["encoded"] == answers[0]["blocks"]["total"]);
  CHECK(answers[1]["text"] == answers[0]["text"]);
  CHECK(answers[1]["token_ids"] == answers[0]["token_ids"]);
  CHECK(answers[1]["blocks"] == json({{"total", 4}, {"reused", 4}, {"encoded", 0}}));
}

TEST_CASE("the shipped questions are answered from a pipe", "[command]") {
  const scratch_folder cache;
  const std::string questions = blockattn_test::detail::content(BLOCKATTN_SOURCE_DIR "/examples/questions.txt");
  const command_result result =
      run_command({"ask", "-m", model(), "--docs", documents, "--cache-dir", cache.path().string()}, questions);
  INFO(result.error);
  REQUIRE(result.status == 0);
  CHECK_THAT(result.out, Contains("Tallgrass-Inside") && Contains("Jonas Pell") && Contains("4410"));
  CHECK_THAT(result.out, Contains("hollin-observatory.md") && Contains("first token after") && !Contains("\033"));
}

TEST_CASE("a budget smaller than a passage works uncached and says so", "[command]") {
  const scratch_folder cache;
  const std::string question = "Who discovered the comet of 1962?";
  const command_result result = run_command({"ask", "-m", model(), "--docs", documents, "--cache-dir",
                                             cache.path().string(), "--cache-mb", "1", "--json", question, question});
  REQUIRE(result.status == 0);
  const std::vector<json> answers = json_lines(result.out);
  REQUIRE(answers.size() == 2);
  CHECK_THAT(answers[0]["text"].get<std::string>(), Contains("Jonas Pell"));
  CHECK(answers[1]["text"] == answers[0]["text"]);
  CHECK(answers[1]["blocks"]["encoded"] >= 1);
  CHECK_THAT(result.error, Contains("warning") && Contains("[cache]"));
  const command_result off = run_command({"ask", "-m", model(), "--docs", documents, "--cache-dir",
                                          cache.path().string(), "--cache-mb", "0", "--json", question, question});
  CHECK(json_lines(off.out).at(1)["text"] == answers[0]["text"]);
  CHECK(json_lines(off.out).at(1)["blocks"]["reused"] == 0);
}

TEST_CASE("a question without a matching passage is answered and said to be", "[command]") {
  const scratch_folder cache;
  const command_result result = run_command(
      {"ask", "-m", model(), "--docs", documents, "--cache-dir", cache.path().string(), "--json", "-n", "4", "Zzyzx?"});
  CHECK(result.status == 0);
  CHECK(json::parse(result.out)["match"] == "nothing");
  CHECK(json::parse(result.out)["sources"].empty());
  CHECK_THAT(result.error, Contains("no passage"));
}

TEST_CASE("documents with faults are named, the others are used", "[command]") {
  const scratch_folder docs;
  const scratch_folder cache;
  docs.write("good.txt", "The lighthouse of Ostrey is 41 metres high.\n");
  docs.write("latin.txt", "The caf\xe9 of Ostrey.\n");
  std::filesystem::create_symlink(docs / "nowhere", docs / "dangling.md");
  const command_result result =
      run_command({"ask", "-m", model(), "--docs", docs.path().string(), "--cache-dir", cache.path().string(), "--json",
                   "-n", "8", "How high is the lighthouse?"});
  REQUIRE(result.status == 0);
  CHECK_THAT(result.error,
             Contains("latin.txt") && Contains("1 invalid UTF-8") && Contains("dangling.md") && Contains("skipped"));
  const json answer = json::parse(result.out);
  CHECK(answer["sources"][0]["file"] == "good.txt");
  CHECK(answer["index"]["unreadable"] == 1);
  CHECK(answer["index"]["replaced"] == 1);
}

TEST_CASE("bad input ends with one clear line", "[command]") {
  const scratch_folder folder;
  const scratch_folder empty;
  const std::string cache = (folder / "cache").string();
  const auto file = [&](const char* name, std::string_view content) {
    folder.write(name, content);
    return (folder / name).string();
  };
  const auto refused = [&](int status, std::vector<std::string> arguments, const std::string& cause,
                           std::string_view input = {}) {
    arguments.push_back("--json");
    const command_result result = run_command(arguments, input);
    INFO(arguments[0] << " ... " << cause << "\n" << result.error);
    CHECK(result.status == status);
    CHECK_THAT(result.error, Contains("blockattn: [") && Contains(cause));
    CHECK_THAT(json_lines(result.out).back()["error"]["message"].get<std::string>(), Contains(cause));
    if (status == 1) CHECK(std::count(result.error.begin(), result.error.end(), '\n') == 1);
  };
  std::string long_text;
  for (int i = 0; i < 9000; ++i) long_text += " word";
  const std::string truncated = file("truncated.gguf", blockattn_test::detail::content(model()).substr(0, 1 << 21));

  refused(1, {"inspect", (folder / "missing.gguf").string()}, "missing.gguf");
  refused(1, {"inspect", file("letter.gguf", "Dear model, ")}, "doesn't start with 'GGUF'");
  refused(1, {"inspect", truncated}, "Truncated download");
  refused(1, {"tokenize", "-m", (folder / "missing.gguf").string(), "x"}, "missing.gguf");
  refused(1, {"tokenize", "-m", model(), "--jsonl"}, "line 2: not a JSON string", "\"fine\"\n[1]\n");
  refused(1, {"run", "-m", truncated, "--blocks", file("ok.json", R"({"blocks": ["a"]})")}, "Truncated download");
  refused(1, {"run", "-m", model(), "--blocks", (folder / "missing.json").string()}, "missing.json");
  refused(1, {"run", "-m", model(), "--blocks", file("a.json", "hello")}, "not valid JSON");
  refused(1, {"run", "-m", model(), "--blocks", file("b.json", R"({"blocks": ["a", ""]})")}, "block 1 of 2 is empty");
  refused(1, {"run", "-m", model(), "--blocks", file("c.json", R"({"blocks": ["a"]})"), "--chat"}, "at least 2 blocks");
  refused(1, {"run", "-m", model(), "--blocks", file("d.json", json({{"blocks", {long_text}}}).dump())}, "8192");
  refused(1,
          {"run", "-m", model(), "--blocks", file("e.json", R"({"blocks": ["a"]})"), "--logits",
           (folder / "no" / "dir").string()},
          "can't write the logits");
  refused(1, {"ask", "-m", model(), "--docs", documents, "--cache-dir", cache, " "}, "the question is empty");
  refused(1, {"ask", "-m", model(), "--docs", documents, "--cache-dir", cache}, "no question");
  refused(1, {"ask", "-m", model(), "--docs", (folder / "nowhere").string(), "--cache-dir", cache, "x"},
          "no such folder");
  refused(1, {"ask", "-m", model(), "--docs", empty.path().string(), "--cache-dir", cache, "x"}, "no .txt or .md file");
  refused(1,
          {"ask", "-m", model(), "--docs", documents, "--cache-dir", cache, "--lora", "none", "--lora", "a.gguf", "x"},
          "none' beside");
  refused(2, {"run", "-m", model()}, "--blocks");
  refused(2, {"run", "-m", model(), "--blocks", "x", "--threads", "0"}, "--threads");
  refused(2, {"run", "-m", model(), "--blocks", "x", "--mode", "other"}, "--mode");
  refused(2, {"run", "-m", model(), "--blocks", "x", "-n", "many"}, "--tokens");
  refused(2, {"fly"}, "fly");
  CHECK(!std::filesystem::exists(folder / "no"));
}

TEST_CASE("each subcommand explains itself with an example", "[command]") {
  for (const char* name : {"run", "tokenize", "inspect", "ask"}) {
    const command_result help = run_command({name, "--help"});
    CHECK(help.status == 0);
    CHECK_THAT(help.out, Contains("Example") && Contains(std::string("blockattn ") + name) && Contains("--json") &&
                             Contains("--threads"));
  }
  CHECK_THAT(run_command({"--version"}).out, Contains("blockattn 0."));
}

TEST_CASE("on a terminal: questions one after the other, Ctrl-C ends an answer only", "[command]") {
  const scratch_folder cache;
  command_on_terminal terminal({"ask", "-m", model(), "--docs", documents, "--cache-dir", cache.path().string(), "-n",
                                "2000", "--lora", "none", "--precision", "exact"});  // words that don't depend on the processor
  REQUIRE(terminal.wait_for("> "));
  terminal.type("Who discovered the comet of 1962?\n");
  CHECK(terminal.wait_for("Jonas Pell"));
  CHECK(terminal.wait_for("0 reused, 2 encoded"));
  terminal.type("Who discovered the comet of 1962?\n");
  CHECK(terminal.wait_for("2 reused, 0 encoded"));
  terminal.type(" \n");
  terminal.type("Tell me how many players can play Lantern Keepers\n");  // a long answer
  CHECK(terminal.wait_for("players."));
  terminal.type("\x03");
  CHECK(terminal.wait_for("interrupted"));
  CHECK(terminal.wait_for("> "));
  terminal.type("half a question\x03");
  terminal.type("Who discovered the comet of 1962?\n");
  CHECK(terminal.wait_for("Jonas Pell"));
  terminal.type("/quit\n");
  INFO(terminal.shown());
  CHECK(terminal.finish() == 0);
}

TEST_CASE("Ctrl-C ends a single answer and the program with it", "[command]") {
  const prompt_folder p;
  command_on_terminal terminal({"run", "-m", model(), "--blocks", p.blocks, "-n", "8000"});
  REQUIRE(terminal.wait_for("Berlin"));
  terminal.type("\x03");
  INFO(terminal.shown());
  CHECK(terminal.finish() == 130);
  CHECK_THAT(terminal.shown(), Contains("cancelled"));
}
