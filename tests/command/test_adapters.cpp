// The adapter that comes with the program: found by what it was made for, used by `ask` unless it is told not to.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "adapters.hpp"
#include "command_runner.hpp"
#include "support/gguf_writer.hpp"
#include "support/model_path.hpp"

using namespace blockattn_command;
using namespace blockattn_test;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

const std::string shipped = BLOCKATTN_SOURCE_DIR "/adapters/SmolLM2-135M-Instruct-block-lora.gguf";
const std::string using_it = "using SmolLM2-135M-Instruct-block-lora.gguf";

/// `ask` about the sample documents, few tokens.
command_result ask(const scratch_folder& cache, std::vector<std::string> more,
                   const std::string& program = BLOCKATTN_COMMAND) {
  std::vector<std::string> arguments = {"ask",
                                        "-m",
                                        model_path().string(),
                                        "--docs",
                                        BLOCKATTN_SOURCE_DIR "/examples/documents",
                                        "--cache-dir",
                                        cache.path().string(),
                                        "--json",
                                        "-n",
                                        "12",
                                        "Who discovered the comet of 1962?"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  command_result result = run_command(arguments, {}, program);
  INFO(result.error);
  REQUIRE(result.status == 0);
  return result;
}

}  // namespace

TEST_CASE("adapters are listed with the checkpoint they name", "[command]") {
  const scratch_folder folder;
  const auto adapter = [](std::string_view base) {
    gguf_writer file;
    file.string("general.architecture", "llama").string("general.type", "adapter");
    if (!base.empty()) file.string("blockattn.lora.base_weights", base);
    return file.bytes();
  };
  folder.write("first/b.gguf", adapter("bb"));
  folder.write("first/a.gguf", adapter("aa"));
  folder.write("first/for_nobody.gguf", adapter(""));
  folder.write("first/damaged.gguf", adapter("dd").substr(0, 40));
  folder.write("first/README.md", "No adapter.");
  folder.write("second/c.gguf", adapter("aa"));
  const auto found = shipped_adapters({folder / "first", folder / "nowhere", folder / "second"});
  REQUIRE(found.size() == 3);
  CHECK(found[0].file == folder / "first/a.gguf");
  CHECK(found[0].base == "aa");
  CHECK(found[1].base == "bb");
  CHECK(found[2].file == folder / "second/c.gguf");
  CHECK(shipped_adapters({}).empty());
}

TEST_CASE("ask takes the adapter made for its model, and says so once", "[command]") {
  const scratch_folder cache;
  const command_result adapted = ask(cache, {"Who discovered the comet of 1962?"});
  CHECK(adapted.error.find(using_it) != std::string::npos);
  CHECK(adapted.error.find(using_it) == adapted.error.rfind(using_it));
  const json answer = json::parse(adapted.out.substr(0, adapted.out.find('\n')));
  CHECK(answer["adapters"] == json::array({shipped}));
  CHECK_THAT(answer["text"].get<std::string>(), Contains("Jonas Pell"));

  const command_result asked_for = ask(cache, {"--lora", shipped});
  CHECK_THAT(asked_for.error, !Contains(using_it));
  CHECK(json::parse(asked_for.out)["text"] == answer["text"]);
  const command_result base = ask(cache, {"--lora", "none"});
  CHECK_THAT(base.error, !Contains(using_it));
  CHECK(json::parse(base.out)["adapters"].empty());
  CHECK(json::parse(base.out)["text"] != answer["text"]);
}

TEST_CASE("an installed command finds the adapters installed with it, under any name", "[command]") {
  const scratch_folder prefix;
  std::filesystem::create_directories(prefix / "bin");
  std::filesystem::create_directories(prefix / "share/blockattn/adapters");
  std::filesystem::copy_file(BLOCKATTN_COMMAND, prefix / "bin/blockattn");
  std::filesystem::copy_file(shipped, prefix / "share/blockattn/adapters/renamed.gguf");
  prefix.write("share/blockattn/adapters/damaged.gguf", "GGUF");
  const scratch_folder cache;
  const command_result result = ask(cache, {}, (prefix / "bin/blockattn").string());
  CHECK(json::parse(result.out)["adapters"] ==
        json::array({(prefix / "share/blockattn/adapters/renamed.gguf").string()}));
  CHECK_THAT(result.error, Contains("using renamed.gguf") && Contains("warning") && Contains("damaged.gguf"));
}

TEST_CASE("with its adapter the model gives transformers' probabilities, in both modes", "[command]") {
  const json golden =
      json::parse(blockattn_test::detail::content(BLOCKATTN_SOURCE_DIR "/tests/golden/adapter_smollm2.json"));
  REQUIRE(golden.size() == 6);
  const scratch_folder folder;
  for (const json& expected : golden) {
    const std::string logits = (folder / "logits").string();
    const command_result result = run_command(
        {"run", "-m", model_path().string(), "--lora", shipped, "--chat", "--blocks", "-", "--mode",
         expected["mode"].get<std::string>(), "--precision", "exact", "-n", "0", "--json", "--logits", logits},
        json({{"blocks", expected["blocks"]}}).dump());
    INFO(expected["mode"] << ' ' << expected["blocks"].back() << '\n' << result.error);
    REQUIRE(result.status == 0);
    CHECK(json::parse(result.out)["prompt_tokens"] == expected["tokens"]);
    const std::string bytes = blockattn_test::detail::content(logits);
    std::vector<float> values(bytes.size() / sizeof(float));
    REQUIRE(values.size() == 49152);
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    double sum = 0;
    for (const float value : values) sum += std::exp(static_cast<double>(value));
    for (const json& top : expected["top"])
      CHECK(values.at(top[0].get<std::size_t>()) - std::log(sum) == Approx(top[1].get<double>()).margin(2e-3));
  }
}
