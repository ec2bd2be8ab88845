// The few things of SQLite that the index needs, as move-only owners. Failures are exceptions that carry SQLite's
// result code.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace blockattn_command {

/// SQLite refused. `code` is its primary result code.
struct database_error : std::runtime_error {
  database_error(int result, const std::string& message) : std::runtime_error(message), code(result) {}
  int code;
  /// The file isn't a sound database: it may be deleted and built again.
  [[nodiscard]] bool damaged() const { return code == SQLITE_CORRUPT || code == SQLITE_NOTADB; }
};

class database {
 public:
  /// Opens or creates; waits up to `busy_ms` for locks of other processes.
  database(const std::filesystem::path& file, int busy_ms);
  void execute(const char* sql);
  [[nodiscard]] std::int64_t last_id() const { return sqlite3_last_insert_rowid(handle_.get()); }

 private:
  friend class statement;
  struct closer {
    void operator()(sqlite3* db) const { sqlite3_close(db); }
  };
  [[noreturn]] void fail(int code) const;
  std::unique_ptr<sqlite3, closer> handle_;
};

/// A prepared statement. bind() in order from 1; step() is true while there are rows; reset() before binding again.
class statement {
 public:
  statement(database& db, const char* sql);
  statement& bind(int position, std::int64_t value);
  statement& bind(int position, double value);
  statement& bind(int position, std::string_view text);
  [[nodiscard]] bool step();
  void reset() { sqlite3_reset(handle_.get()); }
  /// For statements without rows: steps to the end and resets.
  void run();
  [[nodiscard]] std::int64_t integer(int column) const { return sqlite3_column_int64(handle_.get(), column); }
  [[nodiscard]] double real(int column) const { return sqlite3_column_double(handle_.get(), column); }
  [[nodiscard]] std::string text(int column) const;

 private:
  struct finalizer {
    void operator()(sqlite3_stmt* s) const { sqlite3_finalize(s); }
  };
  database* db_;
  std::unique_ptr<sqlite3_stmt, finalizer> handle_;
};

/// BEGIN IMMEDIATE; rolled back unless commit() was called.
class transaction {
 public:
  explicit transaction(database& db) : db_(&db) { db.execute("BEGIN IMMEDIATE"); }
  ~transaction();
  transaction(const transaction&) = delete;
  transaction& operator=(const transaction&) = delete;
  void commit();

 private:
  database* db_;
  bool open_ = true;
};

}  // namespace blockattn_command
