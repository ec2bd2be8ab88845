// `pack`, `cache` and the flags --pack and --disk-cache, on the real model.
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "blockattn/core/error.hpp"
#include "command_runner.hpp"
#include "passages_file.hpp"
#include "support/model_path.hpp"

using namespace blockattn_test;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

/// Two small documents, and where things go.
struct corpus {
  scratch_folder folder;
  std::string model = model_path().string();
  std::string pack = (folder / "notes.kvpack").string();
  std::string disk = (folder / "disk").string();
  corpus() {
    folder.write("docs/ferry.md", "# Silver Gull\n\nThe ferry to Sandholm leaves at 9:40 from pier two.\n\n## Prices\n\nA ticket costs four crowns.\n");
    folder.write("docs/hut.txt", "Greyrock hut\n\nThe hut has twelve beds and is closed in winter.\n");
  }

  [[nodiscard]] command_result pack_documents(std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"pack", "-m", model, "--docs", (folder / "docs").string(), "-o", pack, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_command(arguments);
  }
  [[nodiscard]] command_result ask(std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"ask", "-m", model, "--docs", (folder / "docs").string(), "--cache-dir", (folder / "index").string(), "--json", "-n", "8", "When does the ferry to Sandholm leave?"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_command(arguments);
  }
};

json last_json(const command_result& result) {
  INFO(result.error);
  REQUIRE(result.status == 0);
  return json::parse(result.out);
}

}  // namespace

TEST_CASE("pack: ask finds every block, and answers as without", "[command][pack]") {
  const corpus c;
  const json packed = last_json(c.pack_documents());
  CHECK(packed["blocks"] == packed["passages"].get<int>() + 1);  // and the system's
  CHECK(packed["encoded"] == packed["blocks"]);
  const json plain = last_json(c.ask());
  CHECK(plain["blocks"]["encoded"].get<int>() > 1);
  const json with = last_json(c.ask({"--pack", c.pack}));
  CHECK(with["blocks"]["encoded"] == 0);
  CHECK(with["blocks"]["reused"] == plain["blocks"]["total"]);
  CHECK(with["token_ids"] == plain["token_ids"]);

  const json again = last_json(c.pack_documents());  // nothing to do
  CHECK(again["encoded"] == 0);
  CHECK(again["taken_over"] == packed["blocks"]);
  c.folder.write("docs/new.txt", "The bakery opens at six.\n");
  CHECK(last_json(c.pack_documents())["encoded"] == 1);

  const json stats = last_json(run_command({"cache", "stats", c.pack, "--json"}));
  CHECK(stats["kind"] == "pack");
  CHECK(stats["blocks"] == packed["blocks"].get<int>() + 1);
  CHECK(stats["models"][0]["model"] == packed["model"]);
  CHECK(stats["models"][0]["identity"].contains("kv"));
  CHECK(last_json(run_command({"cache", "verify", c.pack, "--json"}))["clean"] == true);
  CHECK_THAT(run_command({"cache", "clear", c.pack}).error, Contains("a pack isn't changed by 'clear'"));

  const command_result other = c.ask({"--pack", c.pack, "--kv", "bf16"});
  CHECK(last_json(other)["blocks"]["encoded"].get<int>() > 1);
  CHECK_THAT(other.error, Contains("warning: [pack]") && Contains("not used") && Contains("kv: f16 there, bf16 here") && Contains(packed["model"].get<std::string>()));

  std::fstream(c.pack, std::ios::in | std::ios::out | std::ios::binary).seekp(30000).put('x').put('y').put('z');
  const command_result verified = run_command({"cache", "verify", c.pack, "--json"});
  CHECK(verified.status == 1);
  CHECK(json::parse(verified.out)["damaged"].size() == 1);
  CHECK(last_json(c.ask({"--pack", c.pack}))["token_ids"] == plain["token_ids"]);
  c.folder.write("text", "no pack");
  const command_result refused = c.ask({"--pack", (c.folder / "text").string()});
  CHECK(refused.status == 1);
  CHECK_THAT(refused.error, Contains("isn't a pack of blocks"));
}

TEST_CASE("disk cache: the next call reuses what this one encoded", "[command][cache]") {
  const corpus c;
  const json first = last_json(c.ask({"--disk-cache", c.disk, "--disk-mb", "64"}));
  CHECK(first["blocks"]["encoded"].get<int>() > 1);
  const json second = last_json(c.ask({"--disk-cache", c.disk, "--disk-mb", "64"}));
  CHECK(second["blocks"]["encoded"] == 0);
  CHECK(second["token_ids"] == first["token_ids"]);
  const json stats = last_json(run_command({"cache", "stats", c.disk, "--json"}));
  CHECK(stats["kind"] == "store");
  CHECK(stats["blocks"] == first["blocks"]["encoded"]);
  CHECK(stats["models"].size() == 1);
  CHECK(last_json(run_command({"cache", "verify", c.disk, "--json"}))["clean"] == true);
  CHECK_THAT(run_command({"cache", "stats", c.disk}).out, Contains("model ") && Contains("kv  f16"));
  const json pruned = last_json(run_command({"cache", "prune", c.disk, "--max-mb", "1", "--json"}));
  CHECK(pruned["removed"].get<int>() > 0);
  CHECK(pruned["compacted"] == true);
  CHECK(run_command({"cache", "clear", c.disk, "--model", "12"}).status == 1);
  CHECK(last_json(run_command({"cache", "clear", c.disk, "--json"}))["blocks"] == 0);
  CHECK(run_command({"cache", "stats", (c.folder / "nothing").string()}).status == 1);
  CHECK_THAT(run_command({"cache", "stats", (c.folder / "docs").string()}).error, Contains("data.mdb is missing"));
  CHECK(run_command({"cache", "frobnicate", c.disk}).status == 2);
  CHECK(run_command({"ask", "-m", c.model, "--docs", "x", "--disk-mb", "0", "q"}).status == 2);
  CHECK(run_command({"ask", "-m", c.model, "--docs", "x", "--disk-mb", "-5", "q"}).status == 2);
  for (const std::string& place : {(c.folder / "docs/hut.txt").string(), std::string("/proc/nowhere")}) {
    const command_result answered = c.ask({"--disk-cache", place});
    CHECK(last_json(answered)["token_ids"] == first["token_ids"]);
    CHECK_THAT(answered.error, Contains("warning: [disk cache]") && Contains("It goes on without the disk cache."));
  }
  const command_result remote = c.ask({"--redis", "redis://127.0.0.1:1"});
  CHECK(last_json(remote)["token_ids"] == first["token_ids"]);
  CHECK_THAT(remote.error, Contains("Connection refused"));
  CHECK_THAT(c.ask({"--redis", "ftp://x"}).error, Contains("another scheme"));
}

TEST_CASE("pack: passages as JSON lines", "[command][pack]") {
  using blockattn_command::parse_passages;
  const auto passages = parse_passages("{\"title\": \"A\", \"text\": \"one\", \"question\": 1}\n\n{\"text\": \"two\"}", "f");
  REQUIRE(passages.size() == 2);
  CHECK(passages[0].title == "A");
  CHECK(passages[1].body == "two");
  for (const char* wrong : {"", "\n", "x", "[]", "{}", "{\"text\": 1}", "{\"text\": \" \"}", "{\"title\": [], \"text\": \"a\"}"}) {
    INFO(wrong);
    CHECK_THROWS_AS(parse_passages(wrong, "f"), blockattn::format_error);
  }
  CHECK_THROWS_WITH(parse_passages("{\"text\": \"a\"}\n{\"x\": 1}", "file.jsonl"), Contains("file.jsonl, line 2: \"text\" is missing"));
  const corpus c;
  const command_result result = run_command({"pack", "-m", c.model, "--passages", "-", "-o", c.pack, "--json", "--lora", "none"}, "{\"title\": \"A\", \"text\": \"one\"}\n{\"title\": \"A\", \"text\": \"one\"}\n");
  CHECK(last_json(result)["blocks"] == 2);  // the same passage once, and the system's
  CHECK(run_command({"pack", "-m", c.model, "-o", c.pack}).status == 1);
  CHECK_THAT(run_command({"pack", "-m", c.model, "--passages", "-", "-o", (c.folder / "docs").string()}, "{\"text\": \"a\"}").error, Contains("is a folder"));
  CHECK_THAT(run_command({"pack", "-m", c.model, "--passages", "-", "-o", (c.folder / "no/where").string()}, "{\"text\": \"a\"}").error, Contains("can't be written"));
}
