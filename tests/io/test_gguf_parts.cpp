// Version 2, and models in several parts: found from any of them; what is missing, foreign or mixed up is named.
#include <catch2/catch.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "blockattn/io/gguf.hpp"
#include "blockattn/io/gguf_fingerprint.hpp"
#include "support/gguf_writer.hpp"
#include "support/temporary_folder.hpp"

using namespace blockattn;
using blockattn_test::gguf_writer;
using blockattn_test::temporary_folder;

namespace {

/// Part `part` of three; two tensors each.
gguf_writer part_of(int part, int parts = 3, int tensors = 6) {
  gguf_writer w;
  if (part == 0) w.string("general.architecture", "llama").string("general.name", "whole");
  w.number("split.no", static_cast<std::uint16_t>(part)).number("split.count", static_cast<std::uint16_t>(parts)).number("split.tensors.count", static_cast<std::int32_t>(tensors));
  for (int i = 0; i < 2; ++i) w.tensor("t" + std::to_string(2 * part + i), {4}, std::vector<float>(4, static_cast<float>(2 * part + i)));
  return w;
}

std::string name_of(int part, int parts = 3) { return "m-0000" + std::to_string(part + 1) + "-of-0000" + std::to_string(parts) + ".gguf"; }

void write_all(const temporary_folder& folder) {
  for (int part = 0; part < 3; ++part) folder.write(name_of(part), part_of(part).bytes());
}

std::string refused(const std::filesystem::path& path) {
  try {
    (void)gguf_file(path);
  } catch (const error& e) {
    CHECK_THAT(e.what(), Catch::StartsWith("[gguf] "));
    return e.what();
  }
  FAIL("the file was accepted");
  return {};
}

}  // namespace

TEST_CASE("gguf: version 2 is read like version 3", "[gguf]") {
  const temporary_folder folder;
  gguf_writer w = part_of(0, 1, 2);
  const gguf_file three(folder.write("3.gguf", w.bytes()));
  w.version = 2;
  const gguf_file two(folder.write("2.gguf", w.bytes()));
  CHECK(two.version() == 2);
  CHECK(two.string("general.name") == "whole");
  CHECK(hash_tensors(two) == hash_tensors(three));
}

TEST_CASE("gguf: any part opens the whole model", "[gguf]") {
  const temporary_folder folder;
  write_all(folder);
  gguf_writer joined;
  joined.string("general.architecture", "llama").string("general.name", "whole");
  for (int i = 0; i < 6; ++i) joined.tensor("t" + std::to_string(i), {4}, std::vector<float>(4, static_cast<float>(i)));
  const gguf_file whole(folder.write("whole.gguf", joined.bytes()));
  std::size_t size = 0;
  for (int part = 0; part < 3; ++part) size += std::filesystem::file_size(folder.path() / name_of(part));
  for (int part = 0; part < 3; ++part) {
    const gguf_file file(folder.path() / name_of(part));
    CHECK(file.tensors().size() == 6);
    CHECK(file.string("general.name") == "whole");
    CHECK(hash_tensors(file) == hash_tensors(whole));
    CHECK(file.size_bytes() == size);
    CHECK(*reinterpret_cast<const float*>(file.find_tensor("t5")->bytes.data()) == 5);
  }
}

TEST_CASE("gguf: parts that are missing, renamed, foreign or mixed up are named", "[gguf][hostile]") {
  const temporary_folder folder;
  const auto fresh = [&] { write_all(folder); };
  fresh();
  std::filesystem::remove(folder.path() / name_of(1));
  CHECK_THAT(refused(folder.path() / name_of(0)), Catch::Contains("part 2 of 3 is missing") && Catch::Contains(name_of(1)));
  CHECK_THAT(refused(folder.path() / name_of(2)), Catch::Contains("part 2 of 3 is missing"));
  fresh();
  folder.write(name_of(1), part_of(2).bytes());
  CHECK_THAT(refused(folder.path() / name_of(0)), Catch::Contains("should be part 2 of 3") && Catch::Contains("say 3 of 3"));
  CHECK_THAT(refused(folder.path() / name_of(1)), Catch::Contains("is part 3 of 3 by its metadata") && Catch::Contains("-00003-of-00003.gguf"));
  fresh();
  CHECK_THAT(refused(folder.write("renamed.gguf", part_of(0).bytes())), Catch::Contains("must end in '-00001-of-00003.gguf'"));
  folder.write(name_of(2), part_of(2, 3, 7).bytes());
  CHECK_THAT(refused(folder.path() / name_of(0)), Catch::Contains("a model of 7 tensors") && Catch::Contains("one of 6"));
  folder.write(name_of(2), part_of(2, 4).bytes());
  CHECK_THAT(refused(folder.path() / name_of(0)), Catch::Contains("say 3 of 4"));
  folder.write(name_of(2), part_of(2).string("general.architecture", "qwen2").bytes());
  CHECK_THAT(refused(folder.path() / name_of(0)), Catch::Contains("'qwen2'") && Catch::Contains("another model"));
  gguf_writer twice = part_of(2);
  twice.tensors()[0].name = "t0";
  folder.write(name_of(2), twice.bytes());
  CHECK_THAT(refused(folder.path() / name_of(0)), Catch::Contains("'t0' appears twice"));
  gguf_writer fewer = part_of(2);
  fewer.tensors().pop_back();
  folder.write(name_of(2), fewer.bytes());
  CHECK_THAT(refused(folder.path() / name_of(0)), Catch::Contains("have 5 tensors") && Catch::Contains("says 6"));
  folder.write(name_of(2), part_of(2).header().substr(0, 60));
  CHECK_THAT(refused(folder.path() / name_of(0)), Catch::Contains(name_of(2)) && Catch::Contains("more than 60 bytes can hold"));
}

TEST_CASE("gguf: absurd numbers of parts are refused", "[gguf][hostile]") {
  const temporary_folder folder;
  CHECK_THAT(refused(folder.write("m-00001-of-65535.gguf", part_of(0, 65535).bytes())), Catch::Contains("part 2 of 65535 is missing"));
  CHECK_THAT(refused(folder.write("a.gguf", part_of(0).number("split.count", std::uint32_t{0xffffffffU}).bytes())), Catch::Contains("must end in"));
  CHECK_THAT(refused(folder.write("b.gguf", part_of(0).number("split.no", std::uint16_t{9}).bytes())), Catch::Contains("part 10 of 3"));
  CHECK_THAT(refused(folder.write("c.gguf", part_of(0).remove("split.no").bytes())), Catch::Contains("split.no"));
  CHECK_THAT(refused(folder.write("d.gguf", part_of(0).string("split.count", "3").bytes())), Catch::Contains("split.count"));
  CHECK_THAT(refused(folder.write("e.gguf", part_of(0).number("split.count", std::int32_t{-3}).bytes())), Catch::Contains("split.count"));
  const std::string bytes = part_of(0).bytes();
  alignas(8) static char memory[4096];
  bytes.copy(memory, bytes.size());
  CHECK_THROWS_WITH(gguf_file::from_memory(std::as_bytes(std::span(memory, bytes.size())), "memory"), Catch::Contains("one of 3 parts"));
}
