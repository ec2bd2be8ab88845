#include "database.hpp"

namespace blockattn_command {

database::database(const std::filesystem::path& file, int busy_ms) {
  sqlite3* raw = nullptr;
  const int code =
      sqlite3_open_v2(file.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  handle_.reset(raw);
  if (code != SQLITE_OK) fail(code);
  sqlite3_extended_result_codes(raw, 0);
  sqlite3_busy_timeout(raw, busy_ms);
}

void database::fail(int code) const {
  const char* message = handle_ ? sqlite3_errmsg(handle_.get()) : sqlite3_errstr(code);
  throw database_error(code & 0xff, message);
}

void database::execute(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail(code);
}

statement::statement(database& db, const char* sql) : db_(&db) {
  sqlite3_stmt* raw = nullptr;
  const int code = sqlite3_prepare_v2(db.handle_.get(), sql, -1, &raw, nullptr);
  handle_.reset(raw);
  if (code != SQLITE_OK) db.fail(code);
}

statement& statement::bind(int position, std::int64_t value) {
  if (const int code = sqlite3_bind_int64(handle_.get(), position, value); code != SQLITE_OK) db_->fail(code);
  return *this;
}

statement& statement::bind(int position, double value) {
  if (const int code = sqlite3_bind_double(handle_.get(), position, value); code != SQLITE_OK) db_->fail(code);
  return *this;
}

statement& statement::bind(int position, std::string_view text) {
  const char* data = text.data() != nullptr ? text.data() : "";
  const int code = sqlite3_bind_text64(handle_.get(), position, data, text.size(), SQLITE_TRANSIENT,
                                       SQLITE_UTF8);  // NOLINT: SQLite's macro
  if (code != SQLITE_OK) db_->fail(code);
  return *this;
}

bool statement::step() {
  const int code = sqlite3_step(handle_.get());
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) {
    sqlite3_reset(handle_.get());
    db_->fail(code);
  }
  return false;
}

void statement::run() {
  while (step()) {
  }
  reset();
}

std::string statement::text(int column) const {
  const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(handle_.get(), column));
  if (data == nullptr) return {};
  return {data, static_cast<std::size_t>(sqlite3_column_bytes(handle_.get(), column))};
}

transaction::~transaction() {
  if (!open_) return;
  try {
    db_->execute("ROLLBACK");
  } catch (const database_error&) {  // SQLite rolled back by itself already
  }
}

void transaction::commit() {
  db_->execute("COMMIT");
  open_ = false;
}

}  // namespace blockattn_command
