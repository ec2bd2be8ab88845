// cache/pack.hpp, pack_writer.hpp: what was packed is found, also after interruptions; what isn't a sound pack is refused.
#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iterator>
#include <random>

#include "blockattn/cache/pack_writer.hpp"
#include "tier_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

std::vector<block_key> keys(std::uint64_t first, std::uint64_t last, const fingerprint_parts& identity = tier_identity()) {
  std::vector<block_key> result;
  for (std::uint64_t n = first; n < last; ++n) result.push_back(tier_key(n, identity));
  return result;
}

index_t tokens_of(const block_key& key) { return 5 + static_cast<index_t>(key.hash.low % 40); }

/// Packs until it is complete, or `most` blocks were added.
std::size_t pack(const fs::path& path, const std::vector<block_key>& wanted, std::size_t most = 1000000, const fingerprint_parts& identity = tier_identity()) {
  pack_writer writer(path, identity.hash(), identity, wanted);
  const std::size_t before = writer.taken_over();
  for (const block_key& key : wanted) {
    if (writer.contains(key)) continue;
    if (most-- == 0) return before;
    writer.add(key, *tier_block(key, tokens_of(key)));
  }
  writer.finish();
  return before;
}

bool holds(block_tier& tier, const block_key& key) {
  const auto block = tier.find(key, tier_layout);
  return block != nullptr && block->tokens() == tokens_of(key) && is_block_of(key, *block) && reinterpret_cast<std::uintptr_t>(block->data()) % 64 == 0;
}

std::string content(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::string failure(const fs::path& path) {
  try {
    const pack_file file(path);
  } catch (const error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("pack: found where it lies, by any number of readers", "[cache][pack]") {
  const scratch_folder folder;
  const fs::path path = folder / "corpus.kvpack";
  CHECK(pack(path, keys(0, 100)) == 0);
  CHECK_FALSE(fs::exists(folder / "corpus.kvpack.part"));
  const pack_file file(path);
  CHECK(file.blocks() == 100);
  CHECK(file.model() == tier_identity().hash());
  CHECK(file.identity().parts == tier_identity().parts);
  CHECK(file.verify().empty());
  pack_tier tier(path);
  for (const block_key& key : keys(0, 100)) CHECK(holds(tier, key));
  CHECK(tier.find(tier_key(100), tier_layout) == nullptr);
  CHECK(tier.stats().hits == 100);
  CHECK(tier.stats().misses == 1);
  CHECK(tier.find(tier_key(5), tier_layout)->data() == tier.find(tier_key(5), tier_layout)->data());
  const auto kept = [&] {
    pack_tier other(path);
    return other.find(tier_key(7), tier_layout);
  }();
  fs::remove(path);
  CHECK(is_block_of(tier_key(7), *kept));  // the map lives as long as the block
  const scratch_folder empty;
  CHECK(pack(empty / "none", {}) == 0);
  CHECK(pack_file(empty / "none").blocks() == 0);
}

TEST_CASE("pack: opens 2,000 blocks in no time", "[cache][pack]") {
  const scratch_folder folder;
  pack(folder / "p", keys(0, 2000));
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const pack_file file(folder / "p");
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    CHECK(file.blocks() == 2000);
  }
  CHECK(best < 50);
}

TEST_CASE("pack: goes on where it was interrupted", "[cache][pack]") {
  const scratch_folder folder;
  const fs::path path = folder / "p";
  pack(path, keys(0, 30), 12);
  CHECK_FALSE(fs::exists(path));
  SECTION("as it was left") { CHECK(pack(path, keys(0, 30)) == 12); }
  SECTION("in the middle of a record") {
    fs::resize_file(folder / "p.part", fs::file_size(folder / "p.part") - 100);
    CHECK(pack(path, keys(0, 30)) == 11);
  }
  SECTION("with a damaged record: what follows it is not believed") {
    std::string bytes = content(folder / "p.part");
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    std::ofstream(folder / "p.part", std::ios::binary) << bytes;
    const std::size_t left = pack(path, keys(0, 30));
    CHECK(left > 2);
    CHECK(left < 11);
  }
  SECTION("by another model: anew") {
    const auto other = identity_of("1234", "f16");
    CHECK(pack(path, keys(0, 30, other), 1000, other) == 0);
    CHECK(pack(path, keys(0, 30)) == 0);
  }
  SECTION("with garbage") {
    folder.write("p.part", std::string(5000, 'x'));
    CHECK(pack(path, keys(0, 30)) == 0);
  }
  SECTION("with other documents: what nobody wants is not carried on") {
    CHECK(pack(path, keys(6, 30), 3) == 6);
    CHECK(pack(path, keys(6, 30)) == 9);
    CHECK(pack_file(path).blocks() == 24);
    CHECK(content(path).find(std::string_view(reinterpret_cast<const char*>(tier_block(tier_key(1))->data()), 256)) == std::string::npos);
    CHECK(pack(path, keys(0, 30)) == 24);  // and an earlier pack gives what it has
  }
  pack_tier tier(path);
  for (const block_key& key : keys(0, 30)) CHECK(holds(tier, key));
  CHECK(tier.pack().verify().empty());
}

TEST_CASE("pack: two writers", "[cache][pack]") {
  const scratch_folder folder;
  const pack_writer first(folder / "p", tier_identity().hash(), tier_identity(), keys(0, 3));
  CHECK_THROWS_WITH(pack(folder / "p", keys(0, 3)), Contains("another process is writing this pack"));
}

TEST_CASE("pack: a full disk, and going on when there is room", "[cache][pack]") {
  const scratch_folder folder;
  const int status = in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const ::rlimit limit{300000, RLIM_INFINITY};  // a file of at most 300 kB: writing ends half-way
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      pack(folder / "p", keys(0, 60));
    } catch (const io_error& e) {
      return std::string_view(e.what()).find("can't be written") != std::string_view::npos ? 0 : 1;
    }
    return 2;
  });
  CHECK(status == 0);
  CHECK(pack(folder / "p", keys(0, 60)) > 5);
  CHECK(pack_file(folder / "p").verify().empty());
}

TEST_CASE("pack: damaged blocks are computed again", "[cache][pack]") {
  const scratch_folder folder;
  log_book log;
  pack(folder / "p", keys(0, 3));
  std::string bytes = content(folder / "p");
  const auto block = tier_block(tier_key(1), tokens_of(tier_key(1)));
  const auto at = bytes.find(std::string_view(reinterpret_cast<const char*>(block->data()), 256));
  REQUIRE(at != std::string::npos);
  SECTION("its content") { bytes[at + 99] = static_cast<char>(bytes[at + 99] ^ 64); }
  SECTION("its header") { bytes[at - 20] = static_cast<char>(bytes[at - 20] ^ 64); }
  SECTION("its length") { bytes[at - 34] = static_cast<char>(bytes[at - 34] ^ 64); }
  std::ofstream(folder / "p", std::ios::binary) << bytes;
  CHECK(pack_file(folder / "p").verify() == std::vector<block_key>{tier_key(1)});
  pack_tier tier(folder / "p", log.sink());
  for (int i = 0; i < 2; ++i) {
    CHECK(holds(tier, tier_key(0)));
    CHECK(tier.find(tier_key(1), tier_layout) == nullptr);
    CHECK(holds(tier, tier_key(2)));
  }
  CHECK(tier.stats().damaged == 1);
  CHECK(log.count(log_level::warning, "is damaged; it's computed again") == 1);
  CHECK(pack(folder / "p", keys(0, 3)) == 2);
  CHECK(pack_file(folder / "p").verify().empty());
}

TEST_CASE("pack: another model's, both named", "[cache][pack]") {
  const scratch_folder folder;
  log_book log;
  pack(folder / "p", keys(0, 3));
  pack_tier tier(folder / "p", log.sink());
  const auto other = identity_of("99", "bf16");
  tier.introduce(other.hash(), other);
  CHECK(tier.find(tier_key(1, other), tier_layout) == nullptr);
  CHECK_THAT(log.text(), Contains(to_string(other.hash())) && Contains(to_string(tier_identity().hash())) && Contains("weights: 1234 there, 99 here"));
  tier.introduce(tier_identity().hash(), tier_identity());
  CHECK(log.count(log_level::warning) == 1);
}

TEST_CASE("pack: what isn't a pack", "[cache][pack][hostile]") {
  const scratch_folder folder;
  pack(folder / "p", keys(0, 8));
  const std::string good = content(folder / "p");
  CHECK_THAT(failure(folder / "nothing"), Contains("can't open"));
  CHECK_THAT(failure(folder.path()), Contains("is a folder"));
  folder.write("text", std::string(1000, 'x'));
  CHECK_THAT(failure(folder / "text"), Contains("isn't a pack of blocks"));
  std::string changed = good;
  changed[8] = 9;
  folder.write("version", changed);
  CHECK_THAT(failure(folder / "version"), Contains("its format is version 9; this version reads 1"));
  for (std::size_t size = 0; size < good.size(); size += 509) {
    folder.write("short", good.substr(0, size));
    CHECK(failure(folder / "short") != "no error");
  }
  folder.write("long", good + std::string(64, '\0'));
  CHECK(failure(folder / "long") != "no error");
  std::mt19937 random(3);
  const std::size_t index = good.size() - 64 - 8 * 48 - 64;
  for (int i = 0; i < 400; ++i) {  // a wrong byte anywhere: refused, or all that is handed out is right
    std::string bytes = good;
    const std::size_t at = i % 2 == 0 ? random() % 200 : index + random() % (good.size() - index);
    bytes[at] = static_cast<char>(random());
    folder.write("bad", bytes);
    if (failure(folder / "bad") != "no error") continue;
    pack_tier tier(folder / "bad");
    for (const block_key& key : keys(0, 8)) {
      const auto block = tier.find(key, tier_layout);
      if (block != nullptr) REQUIRE(is_block_of(key, *block));
    }
  }
}

TEST_CASE("pack: exported from a cache, imported into a tier", "[cache][pack]") {
  const scratch_folder folder;
  pack(folder / "a", keys(0, 10));
  block_cache cache(1 << 20, {}, {std::make_shared<pack_tier>(folder / "a")});
  for (const block_key& key : keys(10, 15)) {
    auto r = cache.reserve(key);
    r.publish(tier_block(key, tokens_of(key)));
  }
  pack_writer writer(folder / "b", tier_identity().hash(), tier_identity(), keys(5, 20));
  CHECK(export_blocks(cache, keys(5, 20), tier_layout, writer) == 10);
  CHECK_THROWS_AS(writer.add(tier_key(1, identity_of("2")), *tier_block(tier_key(1))), argument_error);
  writer.finish();
  pack_tier tier(folder / "b");
  for (const block_key& key : keys(5, 15)) CHECK(holds(tier, key));
}
