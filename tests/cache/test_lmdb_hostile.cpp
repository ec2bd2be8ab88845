// cache/lmdb_env.hpp, lmdb_check.hpp: whatever lies where the store should be, there is an error that says so, or a new
// store beside the damaged one; never a crash.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>

#include "blockattn/cache/lmdb_tier.hpp"
#include "tier_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;
constexpr std::uint64_t blocks = 40;

std::string content(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_to(const fs::path& file, std::string_view bytes) { std::ofstream(file, std::ios::binary) << bytes; }

/// A store with blocks in it that has seen evictions, so that it has free pages. Written once.
const std::string& good_store() {
  static const std::string bytes = [] {
    const scratch_folder folder;
    {
      lmdb_tier tier({folder.path(), 2 * MiB, 256 * MiB, {}});
      for (std::uint64_t n = 0; n < 2 * blocks; ++n) tier.put(tier_key(n), tier_block(tier_key(n), 30 + static_cast<index_t>(n % 7))), tier.flush();
    }
    return content(folder / "data.mdb");
  }();
  return bytes;
}

/// Opens, reads everything, writes. 0 if all that was found was right, 1 if something wrong was handed out.
int use_store(const scratch_folder& folder) {
  try {
    lmdb_tier tier({folder.path(), 2 * MiB, 256 * MiB, {}});
    for (std::uint64_t n = 0; n < 2 * blocks; ++n) {
      const auto block = tier.find(tier_key(n), tier_layout);
      if (block != nullptr && !is_block_of(tier_key(n), *block)) return 1;
    }
    for (std::uint64_t n = 100; n < 105; ++n) tier.put(tier_key(n), tier_block(tier_key(n), 30)), tier.flush();
    (void)tier.store().verify();
    (void)tier.store().clear();
  } catch (const error&) {
    return 0;
  }
  return 0;
}

std::string failure(const lmdb_options& options) {
  try {
    const lmdb_tier tier(options);
  } catch (const error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("lmdb_check: a file that LMDB wrote is sound", "[cache][lmdb]") {
  const std::string& bytes = good_store();
  CHECK(lmdb_problem(std::as_bytes(std::span(bytes))) == "");
}

TEST_CASE("lmdb store: damaged files are put aside, or what they hold is right", "[cache][lmdb][hostile]") {
  std::mt19937 random(7);
  const std::string& good = good_store();
  int aside = 0;
  for (int round = 0; round < 40; ++round) {
    std::string bytes = good;
    if (round % 3 == 0) {
      bytes.resize(random() % bytes.size());
    } else {  // a page of the tree, or its header
      for (int i = 0; i < 1 + round % 4; ++i) {
        const std::size_t page = random() % (bytes.size() / 4096);
        const std::size_t at = page * 4096 + random() % (round % 2 == 0 ? 200 : 4096);
        bytes[at] = static_cast<char>(random());
      }
    }
    const scratch_folder folder;
    write_to(folder / "data.mdb", bytes);
    INFO("round " << round);
    REQUIRE(in_child([&] {
              ::alarm(20);  // nor may it hang
              return use_store(folder);
            }) == 0);
    aside += fs::exists(folder / "data.mdb.damaged") ? 1 : 0;
  }
  CHECK(aside > 10);
}

TEST_CASE("lmdb store: every byte of the tree's pages may be wrong", "[cache][lmdb][hostile]") {
  const std::string& good = good_store();
  std::mt19937 random(11);
  int found = 0, tried = 0;
  for (std::size_t page = 0; page * 4096 < good.size(); ++page) {
    const auto flags = static_cast<unsigned char>(good[page * 4096 + 10]);
    if ((flags & 11U) == 0 || (flags & ~11U) != 0) continue;  // branch, leaf, meta
    for (std::size_t i = 0; i < 40; ++i) {
      std::string bytes = good;
      const std::size_t at = page * 4096 + (i * 4) % 160;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
      ++tried;
      found += lmdb_problem(std::as_bytes(std::span(bytes))).empty() ? 0 : 1;  // and it comes back
    }
  }
  CHECK(tried > 200);
  CHECK(found > 50);  // most of the others are in pages that aren't used, or in what a checksum covers
}

TEST_CASE("lmdb store: foreign files", "[cache][lmdb][hostile]") {
  const scratch_folder folder;
  log_book log;
  for (const std::string& bytes : {std::string("SQLite format 3"), std::string(100000, '\0'), std::string(8192, '\xff')}) {
    write_to(folder / "data.mdb", bytes);
    lmdb_tier tier({folder.path(), 4 * MiB, MiB, log.sink()});
    CHECK(content(folder / "data.mdb.damaged") == bytes);
    tier.put(tier_key(1), tier_block(tier_key(1)));
    tier.flush();
    CHECK(tier.find(tier_key(1), tier_layout) != nullptr);
  }
  CHECK(log.count(log_level::warning, "It's put aside as data.mdb.damaged, and a new one is begun.") == 3);
}

TEST_CASE("lmdb store: another version's", "[cache][lmdb][hostile]") {
  const scratch_folder folder;
  {
    lmdb_env env(folder.path(), 4 * MiB, {});
    lmdb_change change(env);
    change.put(env.dbs().meta, detail::text_bytes("format"), detail::text_bytes("blockattn.store9"));
    change.commit();
  }
  CHECK_THAT(failure({folder.path(), 4 * MiB, MiB, {}}), Contains("its format is 'blockattn.store9'; this version reads and writes 'blockattn.store1'"));
}

TEST_CASE("lmdb store: budgets and places that can't be", "[cache][lmdb][hostile]") {
  const scratch_folder folder;
  CHECK_THAT(failure({folder / "a", 0, MiB, {}}), Contains("a budget of 0 bytes; allowed: 1048576 to"));
  CHECK_THAT(failure({folder / "a", static_cast<std::size_t>(-1), MiB, {}}), Contains("a budget of 18446744073709551615 bytes; allowed:"));
  folder.write("file", "x");
  CHECK_THAT(failure({folder / "file", 4 * MiB, MiB, {}}), Contains("is a file; allowed: a folder"));
  CHECK_THAT(failure({folder / "file/below", 4 * MiB, MiB, {}}), Contains("Not a directory"));
  fs::create_directory(folder / "locked");
  fs::permissions(folder / "locked", fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec);
  fs::permissions(folder.path(), fs::perms::all);
  const int status = in_child([&] {
    if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) return 2;
    return failure({folder / "locked", 4 * MiB, MiB, {}}).find("can't be written: Permission denied") != std::string::npos ? 0 : 1;
  });
  if (status == 2) WARN("left out: this process can't give up being root");
  CHECK((status == 0 || status == 2));
}

TEST_CASE("lmdb store: a map larger than the address space", "[cache][lmdb][hostile]") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  WARN("left out: sanitizers need the address space");
#else
  const scratch_folder folder;
  CHECK(in_child([&] {
          const ::rlimit limit{std::size_t{2} << 30, std::size_t{2} << 30};
          if (::setrlimit(RLIMIT_AS, &limit) != 0) return 2;
          return failure({folder.path(), std::size_t{1} << 40, MiB, {}}).find("doesn't fit into the address space") != std::string::npos ? 0 : 1;
        }) == 0);
#endif
}

TEST_CASE("lmdb store: a budget larger than the disk is said", "[cache][lmdb][hostile]") {
  const scratch_folder folder;
  log_book log;
  lmdb_tier tier({folder.path(), std::size_t{1} << 45, MiB, log.sink()});
  CHECK(log.count(log_level::warning, "what doesn't fit will not be stored") == 1);
  tier.put(tier_key(1), tier_block(tier_key(1)));
  tier.flush();
  CHECK(tier.stats().writes == 1);
}
