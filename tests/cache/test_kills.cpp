// SIGKILL at random moments, while a process serves with write-behind and while another packs: afterwards the store opens,
// is sound, and has every block that was committed; the pack goes on; answers are what they were.
// BLOCKATTN_TEST_KILLS: how many kills of each kind (5 if it isn't set).
#include <signal.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "blockattn/cache/lmdb_tier.hpp"
#include "blockattn/cache/pack_writer.hpp"
#include "blockattn/generate/precompute.hpp"
#include "blockattn/generate/session.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_model.hpp"
#include "tier_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;
constexpr token_id passages = 48;

std::vector<token_id> passage_ids(token_id n) {
  std::vector<token_id> ids;
  for (token_id t = 0; t < 40 + n % 30; ++t) ids.push_back(3 + (n * 37 + t * t * 11 + t) % 250);
  return ids;
}

/// Three passages and a question, from a number.
std::vector<std::vector<token_id>> prompt_of(unsigned number) {
  std::mt19937 random(number);
  std::vector<std::vector<token_id>> blocks;
  for (int i = 0; i < 3; ++i) blocks.push_back(passage_ids(static_cast<token_id>(random() % passages)));
  blocks.push_back({5, 9, static_cast<token_id>(3 + number % 200)});
  return blocks;
}

std::shared_ptr<block_cache> open_cache(const fs::path& folder) {
  return std::make_shared<block_cache>(MiB, log_sink{}, tier_list{std::make_shared<lmdb_tier>(lmdb_options{folder / "store", 64 * MiB, 64 * MiB, {}})});
}

/// A line of a log is written whole or not at all.
void note_line(const fs::path& log, const std::string& line) {
  const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (::write(file, (line + '\n').c_str(), line.size() + 1) < 0) std::abort();
  ::close(file);
}

std::vector<std::string> lines_of(const fs::path& log) {
  std::vector<std::string> result;
  std::ifstream in(log);
  for (std::string line; std::getline(in, line);) result.push_back(line);
  return result;
}

/// Serves prompts for ever; what was committed is noted.
[[noreturn]] void serve(const fs::path& folder, unsigned seed) {
  const model m = model::load(folder / "model.gguf");
  const auto cache = open_cache(folder);
  for (unsigned number = seed;; ++number) {
    const auto prompt = prompt_of(number);
    (void)session(m, cache).logits_of_ids(prompt);
    if (number % 3 != 0) continue;
    cache->flush();
    std::string keys;
    for (std::size_t i = 0; i + 1 < prompt.size(); ++i) keys += to_string(make_block_key(m.fingerprint(), prompt[i])) + ' ';
    note_line(folder / "committed", keys);
  }
}

std::vector<block_key> pack_keys(const model& m) {
  std::vector<block_key> keys;
  for (token_id n = 0; n < passages; ++n) keys.push_back(make_block_key(m.fingerprint(), passage_ids(n)));
  return keys;
}

std::size_t pack_all(const fs::path& folder) {
  const model m = model::load(folder / "model.gguf");
  pack_writer writer(folder / "corpus.kvpack", m.fingerprint(), m.identity(), pack_keys(m));
  const std::size_t before = writer.taken_over();
  for (token_id n = 0; n < passages; ++n) {
    const auto key = make_block_key(m.fingerprint(), passage_ids(n));
    if (!writer.contains(key)) writer.add(key, *m.encode(passage_ids(n)));
    note_line(folder / "packed", std::to_string(writer.blocks()));
  }
  writer.finish();
  return before;
}

/// This program again, as a worker in `folder`.
pid_t start_worker(const fs::path& folder, const char* kind, unsigned seed) {
  return start_child([&] {
    ::setenv("BLOCKATTN_WORKER_FOLDER", folder.c_str(), 1);
    ::setenv("BLOCKATTN_WORKER_SEED", std::to_string(seed).c_str(), 1);
    ::execl("/proc/self/exe", "worker", kind, static_cast<char*>(nullptr));
    return 127;
  });
}

int kills() {
  const char* number = std::getenv("BLOCKATTN_TEST_KILLS");
  return number != nullptr ? std::atoi(number) : 5;
}

/// Kills the worker after a random time from its first line on; returns whether it was still alive.
bool kill_soon(pid_t worker, const fs::path& log, std::mt19937& random) {
  const std::size_t before = lines_of(log).size();
  for (int i = 0; i < 30000 && lines_of(log).size() == before && ::kill(worker, 0) == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    int status = 0;
    if (::waitpid(worker, &status, WNOHANG) == worker) return false;
  }
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 60000));
  ::kill(worker, SIGKILL);
  return wait_for_child(worker) == 128 + SIGKILL;
}

}  // namespace

TEST_CASE("worker: serve", "[.worker]") {
  const char* folder = std::getenv("BLOCKATTN_WORKER_FOLDER");
  if (folder != nullptr) serve(folder, static_cast<unsigned>(std::atoi(std::getenv("BLOCKATTN_WORKER_SEED"))));
}

TEST_CASE("worker: pack", "[.worker]") {
  const char* folder = std::getenv("BLOCKATTN_WORKER_FOLDER");
  if (folder != nullptr) (void)pack_all(folder);
}

TEST_CASE("kills: while serving with write-behind", "[cache][kills]") {
  const scratch_folder folder;
  folder.write("model.gguf", tiny_model(5).file().bytes());
  const model m = model::load(folder / "model.gguf");
  std::mt19937 random(1);
  std::set<std::string> committed;
  for (int round = 0; round < kills(); ++round) {
    const auto seed = static_cast<unsigned>(random() % 100000);
    REQUIRE(kill_soon(start_worker(folder.path(), "worker: serve", seed), folder / "committed", random));
    const auto cache = open_cache(folder.path());
    auto& tier = dynamic_cast<lmdb_tier&>(*cache->tiers().front());
    REQUIRE(tier.store().verify().clean());
    for (const std::string& line : lines_of(folder / "committed"))
      for (std::size_t at = 0; at + 33 <= line.size(); at += 33) committed.insert(line.substr(at, 32));
    for (const std::string& hash : committed) REQUIRE(cache->contains({parse_fingerprint(hash).value(), m.fingerprint()}));
    const auto prompt = prompt_of(seed);
    REQUIRE(session(m, cache).logits_of_ids(prompt) == session(m).logits_of_ids(prompt));
    REQUIRE(cache->stats().fetched > 0);
    if (round % 10 == 9) (void)tier.store().clear(), committed.clear(), fs::remove(folder / "committed");
  }
  CHECK_FALSE(fs::exists(folder / "store/data.mdb.damaged"));
}

TEST_CASE("kills: while packing", "[cache][kills]") {
  const scratch_folder folder;
  folder.write("model.gguf", tiny_model(5).file().bytes());
  const model m = model::load(folder / "model.gguf");
  std::mt19937 random(2);
  for (int round = 0, done = 0; done < kills(); ++round) {
    REQUIRE(round < 10 * kills() + 20);
    const bool killed = kill_soon(start_worker(folder.path(), "worker: pack", 0), folder / "packed", random);
    done += killed ? 1 : 0;
    const auto packed = lines_of(folder / "packed");
    const bool complete = fs::exists(folder / "corpus.kvpack");
    if (!complete) {  // what was said to be packed is there
      const pack_writer writer(folder / "corpus.kvpack", m.fingerprint(), m.identity(), pack_keys(m));
      REQUIRE(writer.taken_over() >= std::stoul(packed.back()));
      if (random() % 3 != 0) continue;
    }
    const std::size_t taken_over = pack_all(folder.path());
    if (complete) REQUIRE(taken_over == passages);
    pack_tier tier(folder / "corpus.kvpack");
    REQUIRE(tier.pack().verify().empty());
    for (token_id n = 0; n < passages; ++n) {
      const auto block = tier.find(make_block_key(m.fingerprint(), passage_ids(n)), m.kv());
      const auto expected = m.encode(passage_ids(n));
      REQUIRE(block != nullptr);
      REQUIRE(std::equal(expected->data(), expected->data() + expected->bytes(), block->data()));
    }
    fs::remove(folder / "corpus.kvpack");
    fs::remove(folder / "packed");
  }
}
