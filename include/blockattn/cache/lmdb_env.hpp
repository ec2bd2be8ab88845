// LMDB as this library uses it: an environment in a folder that is checked before it is opened, and transactions.
//
//   DIR/data.mdb, lock.mdb   LMDB's own            DIR/use.lock   held shared by everyone who has the store open
//
// Who opens the store alone (the lock tells) checks data.mdb first (lmdb_check.hpp); a damaged file is put aside as
// data.mdb.damaged and a new one is begun. A process that is killed leaves nothing to be repaired: LMDB never changes
// pages that the last complete transaction uses, and the system takes its locks away.
#pragma once

#include <fcntl.h>
#include <lmdb.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "blockattn/cache/lmdb_check.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/log.hpp"
#include "blockattn/io/mapped_file.hpp"

namespace blockattn::inline v0 {

/// An error code of LMDB, or of the system underneath.
struct lmdb_error : io_error {
  lmdb_error(int number, const std::string& what) : io_error(cat(what, ": ", ::mdb_strerror(number))), code(number) {}
  int code;
};

namespace detail {

inline void lmdb_check_code(int code, const char* what) {
  if (code != MDB_SUCCESS) throw lmdb_error(code, cat("[disk cache] ", what));
}

/// DIR/use.lock. Changing between shared and alone is atomic (locks of open file descriptions).
class use_lock {
 public:
  explicit use_lock(const std::filesystem::path& path) : file_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (file_ < 0)
      throw io_error(cat("[disk cache] ", path.string(), ": can't be written: ", std::generic_category().message(errno),
                         ". Choose a folder that this user may write, or go without a disk cache."));
  }
  use_lock(const use_lock&) = delete;
  use_lock& operator=(const use_lock&) = delete;
  ~use_lock() { ::close(file_); }

  /// True if nobody else has the store open; holds off everyone else then.
  [[nodiscard]] bool try_alone() const { return set(F_WRLCK); }

  /// Waits while someone checks or compacts the store. Throws io_error after 30 seconds.
  void share() const {
    for (int i = 0; !set(F_RDLCK); ++i) {
      if (i == 3000) throw io_error("[disk cache] another process has kept the store for itself for 30 seconds. Try again.");
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

 private:
  [[nodiscard]] bool set(short type) const {
    struct ::flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    return ::fcntl(file_, F_OFD_SETLK, &lock) == 0;
  }
  int file_;
};

}  // namespace detail

/// An open environment. Shared by its transactions, so that it outlives them.
class lmdb_env {
 public:
  struct tables {
    MDB_dbi meta = 0, models = 0, blocks = 0, uses = 0, order = 0;
  };

  /// Opens or makes the store in `folder`, whose file never grows over `map_bytes`. Throws io_error and format_error.
  lmdb_env(const std::filesystem::path& folder, std::size_t map_bytes, const log_sink& log) : folder_(folder), lock_(make_folder(folder) / "use.lock") {
    alone_ = lock_.try_alone();
    if (!alone_) lock_.share();
    if (alone_) put_damaged_aside(log);
    open(map_bytes);
    int dead = 0;
    (void)::mdb_reader_check(env_, &dead);
    lock_.share();
  }
  lmdb_env(const lmdb_env&) = delete;
  lmdb_env& operator=(const lmdb_env&) = delete;
  ~lmdb_env() { ::mdb_env_close(env_); }

  [[nodiscard]] MDB_env* get() const { return env_; }
  [[nodiscard]] const tables& dbs() const { return tables_; }
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

  [[nodiscard]] std::size_t page_bytes() const {
    MDB_stat stat{};
    (void)::mdb_env_stat(env_, &stat);
    return stat.ms_psize;
  }
  [[nodiscard]] std::uint64_t last_transaction() const { return info().me_last_txnid; }
  [[nodiscard]] std::size_t map_bytes() const { return info().me_mapsize; }

  /// Begins a transaction, adopting a map that another process has enlarged if nobody here is reading or writing.
  MDB_txn* begin(bool write) {
    MDB_txn* txn = nullptr;
    {
      const std::lock_guard lock(resize_);
      ++open_transactions_;
    }
    int code = ::mdb_txn_begin(env_, nullptr, write ? 0 : MDB_RDONLY, &txn);
    if (code == MDB_MAP_RESIZED) {
      const std::lock_guard lock(resize_);
      if (open_transactions_ == 1) (void)::mdb_env_set_mapsize(env_, 0);
      code = ::mdb_txn_begin(env_, nullptr, write ? 0 : MDB_RDONLY, &txn);
    }
    if (code != MDB_SUCCESS) ended();
    detail::lmdb_check_code(code, "can't begin a transaction");
    return txn;
  }
  void ended() { --open_transactions_; }

 private:
  [[nodiscard]] MDB_envinfo info() const {
    MDB_envinfo info{};
    (void)::mdb_env_info(env_, &info);
    return info;
  }

  static const std::filesystem::path& make_folder(const std::filesystem::path& folder) {
    std::error_code failed;
    std::filesystem::create_directories(folder, failed);
    if (!std::filesystem::is_directory(folder))
      throw io_error(cat("[disk cache] ", folder.string(), ": ", std::filesystem::exists(folder) ? "is a file" : failed.message(),
                         "; allowed: a folder, which is made if need be. Give another path."));
    return folder;
  }

  void put_damaged_aside(const log_sink& log) const {
    namespace fs = std::filesystem;
    const fs::path data = folder_ / "data.mdb";
    std::error_code failed;
    if (!fs::exists(data, failed) || fs::file_size(data, failed) == 0) return;
    std::string problem;
    try {
      problem = lmdb_problem(mapped_file(data).bytes());
    } catch (const error& e) {
      problem = e.what();
    }
    if (problem.empty()) return;
    blockattn::log(log, log_level::warning,
                   cat("[disk cache] ", data.string(), ": damaged (", problem, "). It's put aside as data.mdb.damaged, and a new one is begun."));
    fs::rename(data, folder_ / "data.mdb.damaged", failed);
    if (failed) throw io_error(cat("[disk cache] ", data.string(), ": damaged (", problem, "), and can't be put aside: ", failed.message()));
    fs::remove(folder_ / "lock.mdb", failed);
  }

  /// LMDB writes its lock file through a map, which would end the process where the disk is full.
  void allocate_lock_file() const {
    constexpr off_t bytes = 1 << 17;
    const std::filesystem::path path = folder_ / "lock.mdb";
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    const int code = file < 0 ? errno : ::posix_fallocate(file, 0, bytes);
    if (file >= 0) ::close(file);
    if (code != 0) throw io_error(cat("[disk cache] ", path.string(), ": can't be written: ", std::generic_category().message(code)));
  }

  void open(std::size_t map_bytes) {
    if (alone_) allocate_lock_file();
    detail::lmdb_check_code(::mdb_env_create(&env_), "can't create an environment");
    try {
      detail::lmdb_check_code(::mdb_env_set_maxdbs(env_, 8), "can't set the number of tables");
      detail::lmdb_check_code(::mdb_env_set_maxreaders(env_, 1000), "can't set the number of readers");
      detail::lmdb_check_code(::mdb_env_set_mapsize(env_, map_bytes), "can't set the size of the map");
      const int code = ::mdb_env_open(env_, folder_.c_str(), MDB_NOTLS | MDB_NOMETASYNC, 0644);
      if (code == ENOMEM)
        throw io_error(cat("[disk cache] ", folder_.string(), ": a map of ", map_bytes, " bytes doesn't fit into the address space. Give a smaller budget."));
      detail::lmdb_check_code(code, folder_.c_str());
      open_tables();
    } catch (...) {
      ::mdb_env_close(env_);
      throw;
    }
  }

  void open_tables() {
    MDB_txn* txn = nullptr;
    detail::lmdb_check_code(::mdb_txn_begin(env_, nullptr, 0, &txn), "can't begin a transaction");
    const auto table = [txn](const char* name, MDB_dbi& dbi) { return ::mdb_dbi_open(txn, name, MDB_CREATE, &dbi); };
    int code = table("meta", tables_.meta);
    if (code == MDB_SUCCESS) code = table("models", tables_.models);
    if (code == MDB_SUCCESS) code = table("blocks", tables_.blocks);
    if (code == MDB_SUCCESS) code = table("uses", tables_.uses);
    if (code == MDB_SUCCESS) code = table("order", tables_.order);
    if (code == MDB_SUCCESS)
      code = ::mdb_txn_commit(txn);
    else
      ::mdb_txn_abort(txn);
    detail::lmdb_check_code(code, "can't make its tables");
  }

  std::filesystem::path folder_;
  detail::use_lock lock_;
  bool alone_ = false;
  MDB_env* env_ = nullptr;
  tables tables_;
  std::mutex resize_;
  std::atomic<int> open_transactions_{0};
};

/// A reading transaction: what it sees stays as it is for as long as it lives, whatever others write or evict. Many blocks
/// that lie in the map may hold it. Pages that were freed since it began aren't used anew meanwhile.
class lmdb_snapshot {
 public:
  explicit lmdb_snapshot(std::shared_ptr<lmdb_env> env) : env_(std::move(env)), txn_(env_->begin(false)), number_(::mdb_txn_id(txn_)) {}
  lmdb_snapshot(const lmdb_snapshot&) = delete;
  lmdb_snapshot& operator=(const lmdb_snapshot&) = delete;
  ~lmdb_snapshot() {
    ::mdb_txn_abort(txn_);
    env_->ended();
  }

  /// The bytes of a value where they lie, or nothing. One call at a time.
  [[nodiscard]] std::optional<std::span<const std::byte>> get(MDB_dbi table, std::span<const std::byte> key) {
    MDB_val k{key.size(), const_cast<std::byte*>(key.data())}, v{};
    const int code = ::mdb_get(txn_, table, &k, &v);
    if (code == MDB_NOTFOUND) return std::nullopt;
    detail::lmdb_check_code(code, "can't read");
    return std::span(static_cast<const std::byte*>(v.mv_data), v.mv_size);
  }

  [[nodiscard]] MDB_txn* txn() const { return txn_; }
  [[nodiscard]] std::size_t number() const { return number_; }  ///< of the last write that it sees

 private:
  std::shared_ptr<lmdb_env> env_;
  MDB_txn* txn_;
  std::size_t number_;
};

/// A writing transaction; one at a time over all processes. Undone unless committed.
class lmdb_change {
 public:
  explicit lmdb_change(lmdb_env& env) : env_(env), txn_(env.begin(true)) {}
  lmdb_change(const lmdb_change&) = delete;
  lmdb_change& operator=(const lmdb_change&) = delete;
  ~lmdb_change() {
    if (txn_ != nullptr) ::mdb_txn_abort(txn_);
    env_.ended();
  }

  [[nodiscard]] std::optional<std::span<const std::byte>> get(MDB_dbi table, std::span<const std::byte> key) {
    MDB_val k{key.size(), const_cast<std::byte*>(key.data())}, v{};
    const int code = ::mdb_get(txn_, table, &k, &v);
    if (code == MDB_NOTFOUND) return std::nullopt;
    detail::lmdb_check_code(code, "can't read");
    return std::span(static_cast<const std::byte*>(v.mv_data), v.mv_size);
  }

  void put(MDB_dbi table, std::span<const std::byte> key, std::span<const std::byte> value) {
    MDB_val k{key.size(), const_cast<std::byte*>(key.data())}, v{value.size(), const_cast<std::byte*>(value.data())};
    detail::lmdb_check_code(::mdb_put(txn_, table, &k, &v, 0), "can't write");
  }

  /// Room for a value of `bytes` bytes, to be filled before the next call.
  [[nodiscard]] std::byte* reserve(MDB_dbi table, std::span<const std::byte> key, std::size_t bytes) {
    MDB_val k{key.size(), const_cast<std::byte*>(key.data())}, v{bytes, nullptr};
    detail::lmdb_check_code(::mdb_put(txn_, table, &k, &v, MDB_RESERVE), "can't write");
    return static_cast<std::byte*>(v.mv_data);
  }

  bool remove(MDB_dbi table, std::span<const std::byte> key) {
    MDB_val k{key.size(), const_cast<std::byte*>(key.data())};
    const int code = ::mdb_del(txn_, table, &k, nullptr);
    if (code != MDB_NOTFOUND) detail::lmdb_check_code(code, "can't remove");
    return code == MDB_SUCCESS;
  }

  [[nodiscard]] MDB_txn* txn() const { return txn_; }

  void commit() { detail::lmdb_check_code(::mdb_txn_commit(std::exchange(txn_, nullptr)), "can't commit"); }

 private:
  lmdb_env& env_;
  MDB_txn* txn_;
};

/// Walks a table in the order of its keys.
class lmdb_cursor {
 public:
  lmdb_cursor(MDB_txn* txn, MDB_dbi table) { detail::lmdb_check_code(::mdb_cursor_open(txn, table, &cursor_), "can't read a table"); }
  lmdb_cursor(const lmdb_cursor&) = delete;
  lmdb_cursor& operator=(const lmdb_cursor&) = delete;
  ~lmdb_cursor() { ::mdb_cursor_close(cursor_); }

  /// Moves on, at first to the first entry. False at the end.
  bool next() {
    MDB_val k{}, v{};
    const int code = ::mdb_cursor_get(cursor_, &k, &v, MDB_NEXT);
    if (code == MDB_NOTFOUND) return false;
    detail::lmdb_check_code(code, "can't read a table");
    key_ = {static_cast<const std::byte*>(k.mv_data), k.mv_size};
    value_ = {static_cast<const std::byte*>(v.mv_data), v.mv_size};
    return true;
  }
  [[nodiscard]] std::span<const std::byte> key() const { return key_; }
  [[nodiscard]] std::span<const std::byte> value() const { return value_; }

 private:
  MDB_cursor* cursor_ = nullptr;
  std::span<const std::byte> key_, value_;
};

}  // namespace blockattn::inline v0
