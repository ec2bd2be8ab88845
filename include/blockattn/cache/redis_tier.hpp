// The remote tier: blocks on a Redis server, for many machines that share a corpus. Needs hiredis: link blockattn::redis.
//
//   {ns}:block:<model>:<hash>   a record (block_record.hpp)      {ns}:models   hash: fingerprint -> text of its parts
//   {ns}:order                  sorted set: last use (µs) of unpinned blocks
//   {ns}:pins                   hash: pins of a block             {ns}:bytes    sum of the blocks' lengths
//
// All changes of more than one key are scripts, so they happen whole. With a byte budget the script that stores a block
// evicts the least recently used ones; without, the server's maxmemory holds. What comes from the server is verified as
// what comes from a disk is. A server that is down, slow, foreign or closed to this user is a miss for every block, at
// once for as long as it's down, and is said once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/cache/block_record.hpp"
#include "blockattn/cache/block_tier.hpp"
#include "blockattn/cache/redis_link.hpp"
#include "blockattn/cache/tier_log.hpp"
#include "blockattn/cache/write_behind.hpp"

namespace blockattn::inline v0 {

class redis_tier final : public block_tier {
 public:
  /// Doesn't connect yet, and never throws for what the server does.
  explicit redis_tier(const redis_options& options)
      : options_(options), log_(options.log), reading_(options), writing_(options), queue_(options.queue_bytes, std::size_t{8} << 20, [this](auto items) { write(items); }) {}

  [[nodiscard]] std::string name() const override { return cat("redis ", options_.host, ':', options_.port); }

  void introduce(const fingerprint128& model, const fingerprint_parts& identity) override {
    guarded(reading_, [&] {
      const std::string table = key("models"), fingerprint = to_string(model), text = identity.text();
      const auto answers = reading_.run({{"HSETNX", table, fingerprint, text}, {"HGETALL", table}});
      if (answers[0].number() == 0) return;  // known
      std::vector<std::pair<fingerprint128, fingerprint_parts>> others;
      const auto known = answers[1].texts();
      for (std::size_t i = 0; i + 1 < known.size(); i += 2)
        if (const auto other = parse_fingerprint(known[i]); other && *other != model) others.emplace_back(*other, fingerprint_parts::parse(known[i + 1]));
      if (!others.empty()) log_.say(log_level::info, cat("[redis] ", name(), ": nothing for this model: ", why_foreign(model, identity, others)));
    });
  }

  [[nodiscard]] std::shared_ptr<const kv_block> find(const block_key& k, const kv_layout& layout) override {
    std::shared_ptr<const kv_block> block = queue_.find(k);
    if (block == nullptr) guarded(reading_, [&] { block = look_up(k, layout); });
    ++(block != nullptr ? counters_.hits : counters_.misses);
    return block;
  }

  void put(const block_key& k, std::shared_ptr<const kv_block> block) override {
    if (writing_.up() && queue_.push(k, std::move(block))) return;
    ++counters_.dropped;
  }

  [[nodiscard]] bool contains(const block_key& k) override {
    bool result = queue_.find(k) != nullptr;
    const std::string name = block_name(k);
    if (!result) guarded(reading_, [&] { result = reading_.run({"EXISTS", name}).number() == 1; });
    return result;
  }

  bool erase(const block_key& k) override {
    return script(k,
                  "local size = redis.call('STRLEN', KEYS[1]) if redis.call('DEL', KEYS[1]) == 0 then return 0 end "
                  "redis.call('ZREM', KEYS[2], KEYS[1]) redis.call('HDEL', KEYS[3], KEYS[1]) redis.call('DECRBY', KEYS[4], size) return 1");
  }
  bool pin(const block_key& k) override {
    return script(k,
                  "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end "
                  "redis.call('ZREM', KEYS[2], KEYS[1]) redis.call('HINCRBY', KEYS[3], KEYS[1], 1) return 1");
  }
  bool unpin(const block_key& k) override {
    return script(k,
                  "if redis.call('HEXISTS', KEYS[3], KEYS[1]) == 0 then return 0 end "
                  "if redis.call('HINCRBY', KEYS[3], KEYS[1], -1) == 0 then redis.call('HDEL', KEYS[3], KEYS[1]) "
                  "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('ZADD', KEYS[2], ARGV[1], KEYS[1]) end end return 1");
  }

  void flush() override { queue_.flush(); }

  [[nodiscard]] tier_stats stats() override {
    tier_stats result = counters_.stats();
    result.byte_budget = options_.byte_budget;
    result.queued_bytes = queue_.queued_bytes();
    const std::string bytes = key("bytes"), order = key("order"), pins = key("pins");
    guarded(reading_, [&] {
      const auto answers = reading_.run({{"GET", bytes}, {"ZCARD", order}, {"HLEN", pins}});
      result.bytes = static_cast<std::size_t>(std::strtoull(std::string(answers[0].text()).c_str(), nullptr, 10));
      result.blocks = static_cast<std::size_t>(answers[1].number() + answers[2].number());
    });
    return result;
  }

 private:
  [[nodiscard]] std::string key(std::string_view name) const { return cat('{', options_.name_space, "}:", name); }
  [[nodiscard]] std::string block_name(const block_key& k) const { return key(cat("block:", to_string(k.model), ':', to_string(k.hash))); }
  [[nodiscard]] static std::string now() {
    return std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
  }

  /// Runs `work`, unless the server is known to be down; what it throws is counted and said once.
  template <class Work>
  void guarded(redis_link& link, const Work& work) {
    if (!link.up()) return;
    try {
      work();
      if (log_.forget()) log_.say(log_level::info, cat("[redis] ", name(), " answers again"));
    } catch (const error& e) {
      ++counters_.errors;
      log_.warn(cat(e.what(), ". Blocks are computed here until it answers. (Said once.)"));
    }
  }

  bool script(const block_key& k, std::string_view text) {
    queue_.flush();
    const std::string name = block_name(k), order = key("order"), pins = key("pins"), bytes = key("bytes"), time = now();
    bool result = false;
    guarded(writing_, [&] { result = writing_.run({"EVAL", text, "4", name, order, pins, bytes, time}).number() == 1; });
    return result;
  }

  [[nodiscard]] std::shared_ptr<const kv_block> look_up(const block_key& k, const kv_layout& layout) {
    const std::string name = block_name(k), order = key("order"), time = now();
    const auto answers = reading_.run({{"GET", name}, {"ZADD", order, "XX", time, name}});
    if (answers[0].nothing()) return nullptr;
    if (!answers[0].is_text()) throw redis_error(cat("[redis] ", this->name(), ": an answer of another kind than was asked for. Is it a Redis server?"));
    const auto record = read_record(std::as_bytes(std::span(answers[0].text())));
    if (record && has_layout(*record, layout) && is_intact(k, *record)) return copy_of(*record, layout);
    ++counters_.damaged;
    log_.say(log_level::warning, cat("[redis] ", this->name(), ": block ", to_string(k), " is damaged; it's removed and computed again."));
    (void)reading_.run({{"DEL", name}, {"ZREM", order, name}});
    return nullptr;
  }

  void write(std::span<const write_behind::item> items) {
    for (const write_behind::item& item : items) {
      const std::uint64_t written = counters_.writes;
      guarded(writing_, [&] { store(item); });
      if (counters_.writes == written) ++counters_.dropped;
    }
  }

  void store(const write_behind::item& item) {
    static constexpr std::string_view text =
        "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('ZADD', KEYS[2], 'XX', ARGV[1], KEYS[1]) return 0 end "
        "local budget, size = tonumber(ARGV[2]), #ARGV[3] local bytes, evicted = tonumber(redis.call('GET', KEYS[4]) or '0'), 0 "
        "if budget > 0 and size > budget then return -1 end "
        "while budget > 0 and bytes + size > budget do local oldest = redis.call('ZPOPMIN', KEYS[2]) "
        "if #oldest == 0 then if redis.call('HLEN', KEYS[3]) > 0 then return -1 end bytes = 0 break end "
        "bytes = bytes - redis.call('STRLEN', oldest[1]) redis.call('DEL', oldest[1]) evicted = evicted + 1 end "
        "redis.call('SET', KEYS[1], ARGV[3]) redis.call('ZADD', KEYS[2], ARGV[1], KEYS[1]) redis.call('SET', KEYS[4], string.format('%d', bytes + size)) return evicted";
    const auto payload = payload_of(*item.block);
    std::string record(record_header_bytes + payload.size(), '\0');
    write_record_header(reinterpret_cast<std::byte*>(record.data()), item.key, item.block->tokens(), payload, new_stamp());
    std::memcpy(record.data() + record_header_bytes, payload.data(), payload.size());
    const std::string name = block_name(item.key), order = key("order"), pins = key("pins"), bytes = key("bytes"), time = now(), budget = std::to_string(options_.byte_budget);
    const long long evicted = writing_.run({"EVAL", text, "4", name, order, pins, bytes, time, budget, record}).number();
    if (evicted < 0) return;
    ++counters_.writes;
    counters_.evictions += static_cast<std::uint64_t>(evicted);
    if (evicted > 0) log_.say(log_level::debug, cat("[redis] evicted ", evicted, " blocks for ", to_string(item.key)));
  }

  const redis_options options_;
  warn_once log_;
  tier_counters counters_;
  redis_link reading_, writing_;
  write_behind queue_;  ///< the last member: its thread uses the others
};

}  // namespace blockattn::inline v0
