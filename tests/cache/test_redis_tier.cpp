// cache/redis_tier.hpp against Debian's redis-server, and against servers that are down, slow, closed or foreign.
#include "blockattn/cache/redis_tier.hpp"

#include <catch2/catch.hpp>
#include <chrono>

#include "blockattn/cache/lmdb_tier.hpp"
#include "redis_server.hpp"
#include "tier_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;

redis_options options_of(int port, log_sink log = {}) {
  redis_options options;
  options.port = port;
  options.log = std::move(log);
  return options;
}

bool holds(redis_tier& tier, std::uint64_t n) {
  const auto block = tier.find(tier_key(n), tier_layout);
  return block != nullptr && is_block_of(tier_key(n), *block);
}

bool ready() {
  if (redis_server::installed()) return true;
  WARN("left out: /usr/bin/redis-server isn't installed");
  return false;
}

double seconds_of(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TEST_CASE("redis_tier: URLs", "[cache][redis]") {
  const redis_options all = parse_redis_url("redis://me:s:cret@example.org:7000/3");
  CHECK(all.user == "me");
  CHECK(all.password == "s:cret");
  CHECK(all.host == "example.org");
  CHECK(all.port == 7000);
  CHECK(all.database == 3);
  CHECK(parse_redis_url("redis://h").port == 6379);
  CHECK(parse_redis_url("redis://:p@h").password == "p");
  for (const char* wrong : {"", "http://h", "redis://", "redis://h:0", "redis://h:99999", "redis://h:x", "redis://u@h", "redis://h/x"})
    CHECK_THROWS_AS(parse_redis_url(wrong), argument_error);
}

TEST_CASE("redis_tier: shared, bounded, pinned, verified", "[cache][redis]") {
  if (!ready()) return;
  const redis_server server;
  log_book log;
  redis_options options = options_of(server.port(), log.sink());
  options.byte_budget = 10 * (20 * 1024 + record_header_bytes) + 100;
  redis_tier tier(options), other(options);
  tier.introduce(tier_identity().hash(), tier_identity());
  for (std::uint64_t n = 0; n < 10; ++n) tier.put(tier_key(n), tier_block(tier_key(n)));
  tier.flush();
  for (std::uint64_t n = 0; n < 10; ++n) CHECK(holds(other, n));  // another machine's
  CHECK(other.pin(tier_key(1)));
  CHECK(holds(tier, 0));
  for (std::uint64_t n = 10; n < 18; ++n) tier.put(tier_key(n), tier_block(tier_key(n)));
  tier.flush();
  CHECK(tier.stats().writes == 18);
  CHECK(tier.stats().evictions == 8);
  CHECK(tier.stats().blocks == 10);
  CHECK(tier.stats().bytes <= options.byte_budget);
  CHECK(holds(tier, 0));  // recently used
  CHECK(holds(tier, 1));  // pinned
  CHECK_FALSE(tier.contains(tier_key(2)));
  CHECK(tier.unpin(tier_key(1)));
  CHECK_FALSE(tier.unpin(tier_key(1)));
  CHECK(tier.erase(tier_key(1)));
  CHECK_FALSE(tier.erase(tier_key(1)));
  CHECK(tier.stats().blocks == 9);
  tier.put(tier_key(50), tier_block(tier_key(50), 1000));  // larger than the budget
  tier.flush();
  CHECK(tier.stats().dropped == 1);
  redis_link link(options);
  const std::string name = cat("{blockattn1}:block:", to_string(tier_key(0).model), ':', to_string(tier_key(0).hash));
  (void)link.run({"SETRANGE", name, "5000", "xxxx"});
  CHECK_FALSE(holds(tier, 0));
  CHECK(tier.stats().damaged == 1);
  CHECK_FALSE(tier.contains(tier_key(0)));
  (void)link.run({"SET", name, "nonsense"});
  CHECK_FALSE(holds(tier, 0));
  (void)link.run({"LPUSH", cat("{blockattn1}:block:", to_string(tier_key(77).model), ':', to_string(tier_key(77).hash)), "x"});
  CHECK_FALSE(holds(tier, 77));  // of another kind: an error that the server reports
  CHECK(tier.stats().errors == 1);
  const auto mine = identity_of("5");
  other.introduce(mine.hash(), mine);
  CHECK(log.count(log_level::info, "weights: 1234 there, 5 here") == 1);
}

TEST_CASE("redis_tier: what is found there goes to memory and disk", "[cache][redis]") {
  if (!ready()) return;
  const redis_server server;
  redis_tier(options_of(server.port())).put(tier_key(1), tier_block(tier_key(1)));
  const scratch_folder folder;
  const auto disk = std::make_shared<lmdb_tier>(lmdb_options{folder.path(), 4 * MiB, MiB, {}});
  const auto remote = std::make_shared<redis_tier>(options_of(server.port()));
  block_cache cache(MiB, {}, {disk, remote});
  {
    auto r = cache.reserve(tier_key(1));
    REQUIRE(cache.fetch(r, tier_layout));
  }
  cache.flush();
  CHECK(disk->stats().blocks == 1);
  CHECK(cache.stats().blocks == 1);
  CHECK(remote->stats().hits == 1);
  cache.clear();
  CHECK(cache.prefetch(tier_key(1), tier_layout));
  CHECK(remote->stats().hits == 1);  // from the disk
}

TEST_CASE("redis_tier: a server that stops and comes back", "[cache][redis]") {
  if (!ready()) return;
  redis_server server;
  log_book log;
  redis_tier tier(options_of(server.port(), log.sink()));
  tier.put(tier_key(1), tier_block(tier_key(1)));
  tier.flush();
  CHECK(holds(tier, 1));
  server.stop();
  CHECK(seconds_of([&] {
          for (int i = 0; i < 100; ++i) CHECK_FALSE(holds(tier, 1));
        }) < 5);
  CHECK(log.count(log_level::warning, "Blocks are computed here until it answers") >= 1);
  tier.put(tier_key(2), tier_block(tier_key(2)));
  tier.flush();
  server.start();  // empty now
  bool back = false;
  for (int i = 0; i < 200 && !back; ++i) {
    std::this_thread::sleep_for(50ms);
    tier.put(tier_key(3), tier_block(tier_key(3)));
    tier.flush();
    back = holds(tier, 3);
  }
  CHECK(back);
  CHECK(log.count(log_level::info, "answers again") >= 1);
  server.pause();  // connected, and silent
  CHECK(seconds_of([&] {
          for (int i = 0; i < 100; ++i) CHECK_FALSE(holds(tier, 4));
        }) < 6);
  server.go_on();
  for (int i = 0; i < 200 && !holds(tier, 3); ++i) std::this_thread::sleep_for(50ms);
  CHECK(holds(tier, 3));
}

TEST_CASE("redis_tier: a password", "[cache][redis]") {
  if (!ready()) return;
  const redis_server server({"--requirepass", "sesame"});
  log_book log;
  redis_options options = options_of(server.port(), log.sink());
  redis_tier without(options);
  CHECK(without.find(tier_key(1), tier_layout) == nullptr);
  CHECK(log.count(log_level::warning, "Give the right password: redis://[user]:password@host:port") == 1);
  options.password = "wrong";
  CHECK(redis_tier(options).find(tier_key(1), tier_layout) == nullptr);
  CHECK_THAT(log.text(), Contains("WRONGPASS"));
  options.password = "sesame";
  redis_tier with(options);
  with.put(tier_key(1), tier_block(tier_key(1)));
  with.flush();
  CHECK(holds(with, 1));
}

TEST_CASE("redis_tier: servers that answer garbage", "[cache][redis][hostile]") {
  for (const std::string& answer : {std::string("HTTP/1.1 400 Bad Request\r\n\r\n"), std::string("\0\1\2\3", 4), std::string("+OK\r\n+OK\r\n"), std::string(":7\r\n:7\r\n"), std::string("$-1\r\n*3\r\n$-1\r\n"),
                                    std::string("$99999999999\r\nx"), std::string("*2147483647\r\n"), std::string("$4\r\nBAKV\r\n$4\r\nBAKV\r\n"), std::string("-ERR no\r\n"), std::string()}) {
    const babbling_server server(answer);
    log_book log;
    redis_options options = options_of(server.port(), log.sink());
    options.timeout = 50ms;
    redis_tier tier(options);
    tier.introduce(tier_identity().hash(), tier_identity());
    for (std::uint64_t n = 0; n < 3; ++n) {
      CHECK(tier.find(tier_key(n), tier_layout) == nullptr);
      tier.put(tier_key(n), tier_block(tier_key(n)));
    }
    tier.flush();
    (void)tier.stats();
    INFO(log.text());
    CHECK((tier.stats().errors > 0 || tier.stats().damaged > 0 || answer.starts_with(':') || answer.starts_with('+') || answer.starts_with("$-1")));
  }
}

TEST_CASE("redis_tier: nobody there", "[cache][redis]") {
  const auto [listener, port] = listening_socket();
  ::close(listener);
  log_book log;
  redis_tier tier(options_of(port, log.sink()));
  for (int i = 0; i < 10; ++i) CHECK(tier.find(tier_key(1), tier_layout) == nullptr);
  CHECK(tier.stats().errors >= 1);
  CHECK(log.count(log_level::warning, "can't connect: Connection refused") == 1);
}
