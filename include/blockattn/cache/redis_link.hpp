// A connection to a Redis server that may go away at any moment: commands with a time limit, and silence after a failure.
// Needs hiredis: link blockattn::redis.
#pragma once

#include <hiredis/hiredis.h>
#include <sys/time.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/log.hpp"

namespace blockattn::inline v0 {

struct redis_options {
  std::string host = "127.0.0.1";
  int port = 6379;
  std::string user = {}, password = {};
  int database = 0;
  std::string name_space = "blockattn1";             ///< begins every key; other ones don't see each other
  std::size_t byte_budget = 0;                       ///< of all blocks under the namespace, kept by evicting; 0: what the server allows
  std::size_t queue_bytes = std::size_t{256} << 20;  ///< most bytes that wait to be written
  std::chrono::milliseconds timeout{500};            ///< of a connection, and of each answer
  log_sink log = {};
};

/// redis://[[user]:password@]host[:port][/database] as options. Throws argument_error.
[[nodiscard]] inline redis_options parse_redis_url(std::string_view url, log_sink log = {}) {
  const auto wrong = [url](const char* what) {
    return argument_error(cat("[redis] '", url, "': ", what, "; expected redis://[[user]:password@]host[:port][/database]"));
  };
  const auto number = [&](std::string_view text, int least, int most) {
    int value = -1;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failed != std::errc() || end != text.data() + text.size() || value < least || value > most) throw wrong("a port or database out of range");
    return value;
  };
  redis_options options;
  options.log = std::move(log);
  constexpr std::string_view scheme = "redis://";
  if (!url.starts_with(scheme)) throw wrong("another scheme");
  std::string_view rest = url.substr(scheme.size());
  if (const auto at = rest.rfind('@'); at != std::string_view::npos) {
    const std::string_view login = rest.substr(0, at);
    const auto colon = login.find(':');
    if (colon == std::string_view::npos) throw wrong("a user without a password");
    options.user = login.substr(0, colon);
    options.password = login.substr(colon + 1);
    rest.remove_prefix(at + 1);
  }
  if (const auto slash = rest.find('/'); slash != std::string_view::npos) {
    if (slash + 1 < rest.size()) options.database = number(rest.substr(slash + 1), 0, 1 << 20);
    rest = rest.substr(0, slash);
  }
  if (const auto colon = rest.rfind(':'); colon != std::string_view::npos) {
    options.port = number(rest.substr(colon + 1), 1, 65535);
    rest = rest.substr(0, colon);
  }
  if (rest.empty()) throw wrong("no host");
  options.host = rest;
  return options;
}

namespace detail {

/// hiredis makes room for as many elements of an array as an answer announces, and looks at each when it frees them. Whoever
/// answers with a thousand million of them is no Redis server: no answer of ours has more than some thousands.
template <class Function>
struct bounded_arrays;
template <class Task, class Count>
struct bounded_arrays<void* (*)(const Task*, Count)> {
  using function = void* (*)(const Task*, Count);
  static inline function original = nullptr;

  static void* create(const Task* task, Count elements) {
    constexpr Count most = 1 << 16;
    return elements > most ? nullptr : original(task, elements);
  }
  static redisReplyObjectFunctions* functions(const redisContext& context) {
    static redisReplyObjectFunctions result = [&] {
      redisReplyObjectFunctions copy = *context.reader->fn;
      original = std::exchange(copy.createArray, &create);
      return copy;
    }();
    return &result;
  }
};

}  // namespace detail

/// What a server or the network did wrong.
struct redis_error : io_error {
  using io_error::io_error;
};

/// An answer, freed at its end.
class redis_answer {
 public:
  explicit redis_answer(void* reply) : reply_(static_cast<redisReply*>(reply), &::freeReplyObject) {}
  [[nodiscard]] bool nothing() const { return reply_->type == REDIS_REPLY_NIL; }
  [[nodiscard]] bool error() const { return reply_->type == REDIS_REPLY_ERROR; }
  [[nodiscard]] std::string_view text() const {
    const bool has = reply_->type == REDIS_REPLY_STRING || reply_->type == REDIS_REPLY_ERROR || reply_->type == REDIS_REPLY_STATUS;
    return has ? std::string_view(reply_->str, static_cast<std::size_t>(reply_->len)) : std::string_view();
  }
  [[nodiscard]] long long number() const { return reply_->type == REDIS_REPLY_INTEGER ? reply_->integer : 0; }
  [[nodiscard]] bool is_text() const { return reply_->type == REDIS_REPLY_STRING; }
  /// The texts of an array.
  [[nodiscard]] std::vector<std::string> texts() const {
    std::vector<std::string> result;
    if (reply_->type != REDIS_REPLY_ARRAY) return result;
    for (std::size_t i = 0; i < reply_->elements; ++i)
      if (reply_->element[i] != nullptr && reply_->element[i]->type == REDIS_REPLY_STRING)
        result.emplace_back(reply_->element[i]->str, static_cast<std::size_t>(reply_->element[i]->len));
    return result;
  }

 private:
  std::unique_ptr<redisReply, void (*)(void*)> reply_;
};

/// Thread-safe: one command at a time. After a failure it is down, first for a tenth of a second, then for twice as long
/// each time, up to 30 seconds; commands fail at once meanwhile.
class redis_link {
 public:
  using words = std::vector<std::string_view>;

  explicit redis_link(const redis_options& options) : options_(options) {}
  redis_link(const redis_link&) = delete;
  redis_link& operator=(const redis_link&) = delete;

  /// Whether a command would be tried now.
  [[nodiscard]] bool up() {
    const std::lock_guard lock(mutex_);
    return context_ != nullptr || clock::now() >= next_try_;
  }

  /// Sends commands together and returns their answers, none of which is an error. Throws redis_error.
  std::vector<redis_answer> run(const std::vector<words>& commands) {
    const std::lock_guard lock(mutex_);
    if (context_ == nullptr) connect();
    return exchange(commands);
  }
  redis_answer run(const words& command) { return std::move(run(std::vector<words>{command}).front()); }

 private:
  using clock = std::chrono::steady_clock;

  [[nodiscard]] std::string where() const { return cat("[redis] ", options_.host, ':', options_.port, ": "); }

  void connect() {
    if (clock::now() < next_try_) throw redis_error(where() + "down");
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(options_.timeout).count();
    const ::timeval limit{static_cast<time_t>(us / 1000000), static_cast<suseconds_t>(us % 1000000)};
    context_.reset(::redisConnectWithTimeout(options_.host.c_str(), options_.port, limit));
    if (context_ == nullptr || context_->err != 0) fail("can't connect", context_ == nullptr ? "out of memory" : context_->errstr);
    (void)::redisSetTimeout(context_.get(), limit);
    context_->reader->fn = detail::bounded_arrays<decltype(redisReplyObjectFunctions::createArray)>::functions(*context_);
    std::vector<words> hello;
    if (!options_.password.empty() && options_.user.empty()) hello.push_back({"AUTH", options_.password});
    if (!options_.password.empty() && !options_.user.empty()) hello.push_back({"AUTH", options_.user, options_.password});
    const std::string database = std::to_string(options_.database);
    hello.push_back({"SELECT", database});
    (void)exchange(hello);
    pause_ = first_pause;
  }

  std::vector<redis_answer> exchange(const std::vector<words>& commands) {
    for (const words& command : commands) {
      std::vector<const char*> texts;
      std::vector<std::size_t> sizes;
      for (const std::string_view word : command) {
        texts.push_back(word.data());
        sizes.push_back(word.size());
      }
      if (::redisAppendCommandArgv(context_.get(), static_cast<int>(command.size()), texts.data(), sizes.data()) != REDIS_OK) fail("can't send", context_->errstr);
    }
    std::vector<redis_answer> answers;
    for (std::size_t i = 0; i < commands.size(); ++i) {
      void* reply = nullptr;
      if (::redisGetReply(context_.get(), &reply) != REDIS_OK || reply == nullptr) fail("no answer that makes sense", context_->errstr);
      answers.emplace_back(reply);
      if (answers.back().error()) {
        const std::string text(answers.back().text());
        const bool login = text.starts_with("NOAUTH") || text.starts_with("WRONGPASS") || text.starts_with("NOPERM") || text.starts_with("ERR invalid password");
        fail("refuses", text + (login ? ". Give the right password: redis://[user]:password@host:port" : ""));
      }
    }
    return answers;
  }

  [[noreturn]] void fail(const char* what, const std::string& why) {
    const std::string text = cat(where(), what, ": ", why);
    context_.reset();
    next_try_ = clock::now() + pause_;
    pause_ = std::min<std::chrono::milliseconds>(2 * pause_, std::chrono::seconds(30));
    throw redis_error(text);
  }

  static constexpr std::chrono::milliseconds first_pause{100};

  const redis_options options_;
  std::mutex mutex_;
  std::unique_ptr<redisContext, void (*)(redisContext*)> context_{nullptr, &::redisFree};
  clock::time_point next_try_{};
  std::chrono::milliseconds pause_ = first_pause;
};

}  // namespace blockattn::inline v0
