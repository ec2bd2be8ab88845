#include "document_index.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <set>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

#include "blockattn/core/error.hpp"
#include "blockattn/core/fingerprint.hpp"
#include "database.hpp"
#include "query.hpp"

namespace blockattn_command {
namespace {

namespace fs = std::filesystem;
using blockattn::cat;

constexpr int busy_ms = 30'000;
constexpr const char* schema_version = "1";

constexpr const char* schema = R"sql(
  CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS files(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, modified INTEGER NOT NULL, hash TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS passages(
    id INTEGER PRIMARY KEY, file_id INTEGER NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL);
  CREATE INDEX IF NOT EXISTS passages_by_file ON passages(file_id);
  CREATE VIRTUAL TABLE IF NOT EXISTS passages_fts USING fts5(
    title, body, content='passages', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2');
  CREATE TRIGGER IF NOT EXISTS passage_added AFTER INSERT ON passages BEGIN
    INSERT INTO passages_fts(rowid, title, body) VALUES (new.id, new.title, new.body);
  END;
  CREATE TRIGGER IF NOT EXISTS passage_removed AFTER DELETE ON passages BEGIN
    INSERT INTO passages_fts(passages_fts, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
  END;
)sql";

/// Holds an exclusive flock on "<index>.lock"; waits for other processes, giving up after busy_ms.
class file_lock {
 public:
  explicit file_lock(const fs::path& path) : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (descriptor_ < 0)
      throw blockattn::io_error(cat("[index] ", path.string(), ": can't open: ", std::strerror(errno),
                                    ". Choose another folder with --cache-dir."));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(busy_ms);
    while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      const bool late = std::chrono::steady_clock::now() > deadline;
      if ((reason != EWOULDBLOCK && reason != EINTR) || late) {
        ::close(descriptor_);
        throw blockattn::io_error(cat("[index] ", path.string(), ": can't lock: ",
                                      late ? "another process is indexing" : std::strerror(reason), ". Try again."));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  ~file_lock() { ::close(descriptor_); }
  file_lock(const file_lock&) = delete;
  file_lock& operator=(const file_lock&) = delete;

 private:
  int descriptor_;
};

std::string content_hash(const std::string& bytes) {
  return to_string(blockattn::hash_bytes(std::as_bytes(std::span(bytes.data(), bytes.size()))));
}

void remove_database(const fs::path& file) {
  for (const char* suffix : {"", "-journal", "-wal", "-shm"}) {
    std::error_code ignored;  // what can't be removed fails again, with a message, when the file is opened
    fs::remove(fs::path(file.string() + suffix), ignored);
  }
}

}  // namespace

document_index::document_index(fs::path file, std::string format)
    : file_(std::move(file)), format_(std::string(schema_version) + ";" + std::move(format)) {}

document_index::~document_index() = default;

std::string document_index::failure(const std::string& what, const std::string& hint) const {
  return cat("[index] ", file_.string(), ": ", what, ". ", hint);
}

index_report document_index::update(const fs::path& folder, const body_splitter& split,
                                    const blockattn::progress_callback& progress) {
  index_report report;
  const folder_listing listing = list_documents(folder);
  report.warnings = listing.warnings;
  report.unreadable = static_cast<int>(listing.warnings.size());
  if (listing.files.empty())
    throw blockattn::argument_error(cat("[documents] ", folder.string(), ": no .txt or .md file that can be read (",
                                        report.unreadable, " skipped)"));
  std::error_code failed;
  if (file_.has_parent_path()) fs::create_directories(file_.parent_path(), failed);
  if (failed)
    throw blockattn::io_error(
        failure(cat("can't create its folder: ", failed.message()), "Choose another one with --cache-dir."));
  const file_lock lock(file_.string() + ".lock");
  try {
    open_or_rebuild(report);
    update_files(listing, split, progress, report);
  } catch (const database_error& e) {
    throw blockattn::io_error(failure(e.what(), "Delete the file, or choose another folder with --cache-dir."));
  }
  if (report.passages == 0)
    throw blockattn::argument_error(cat("[documents] ", folder.string(), ": the documents hold no text"));
  return report;
}

void document_index::open_or_rebuild(index_report& report) {
  for (bool first = true;; first = false) {
    try {
      db_.reset();
      db_ = std::make_unique<database>(file_, busy_ms);
      statement check(*db_, "PRAGMA quick_check(1)");
      if (!check.step() || check.text(0) != "ok") throw database_error(SQLITE_CORRUPT, "the database is damaged");
      prepare_schema();
      db_->execute("INSERT INTO passages_fts(passages_fts) VALUES ('integrity-check')");
      return;
    } catch (const database_error& e) {
      if (!first || !e.damaged()) throw;
      report.rebuilt = true;
      report.warnings.push_back(failure(cat("damaged (", e.what(), ")"), "It is built again."));
      db_.reset();
      remove_database(file_);
    }
  }
}

void document_index::prepare_schema() {
  transaction change(*db_);
  try {
    db_->execute(schema);
  } catch (const database_error& e) {  // tables of the same names, made by something else
    throw database_error(e.code == SQLITE_ERROR ? SQLITE_CORRUPT : e.code, e.what());
  }
  statement read(*db_, "SELECT value FROM meta WHERE key = 'format'");
  if (!read.step() || read.text(0) != format_) {
    read.reset();
    db_->execute("DELETE FROM passages; DELETE FROM files;");
    statement(*db_, "INSERT OR REPLACE INTO meta(key, value) VALUES ('format', ?1)")
        .bind(1, std::string_view(format_))
        .run();
  }
  read.reset();
  change.commit();
}

void document_index::update_files(const folder_listing& listing, const body_splitter& split,
                                  const blockattn::progress_callback& progress, index_report& report) {
  transaction change(*db_);
  remove_missing(listing, report);
  const auto total = static_cast<std::int64_t>(listing.files.size());
  for (std::int64_t done = 0; done < total; ++done) {
    if (progress && !progress(done, total))
      throw blockattn::cancelled_error("[index] cancelled; the index stays as it was");
    if (update_file(listing.files[static_cast<std::size_t>(done)], split, report)) ++report.indexed;
  }
  if (progress) (void)progress(total, total);
  statement count(*db_, "SELECT count(*) FROM passages");
  if (count.step()) report.passages = count.integer(0);
  count.reset();
  change.commit();
}

/// True if the file was read and split. Unchanged files and unreadable ones are counted here.
bool document_index::update_file(const document_file& document, const body_splitter& split, index_report& report) {
  statement known(*db_, "SELECT id, size, modified, hash FROM files WHERE name = ?1");
  const bool is_known = known.bind(1, std::string_view(document.name)).step();
  const std::int64_t old_id = is_known ? known.integer(0) : 0;
  if (is_known && known.integer(1) == document.size && known.integer(2) == document.modified) {
    ++report.unchanged;
    return false;
  }
  const std::string old_hash = is_known ? known.text(3) : std::string();
  known.reset();
  std::string bytes;
  try {
    bytes = read_bytes(document.path);
  } catch (const blockattn::io_error& e) {
    report.warnings.push_back(std::string(e.what()) + "; skipped");
    ++report.unreadable;
    if (is_known) remove_file(old_id);
    return false;
  }
  const std::string hash = content_hash(bytes);
  if (is_known && hash == old_hash) {  // touched, not changed
    statement(*db_, "UPDATE files SET size = ?1, modified = ?2 WHERE id = ?3")
        .bind(1, document.size)
        .bind(2, document.modified)
        .bind(3, old_id)
        .run();
    ++report.unchanged;
    return false;
  }
  if (is_known) remove_file(old_id);
  const document_text text = to_text(bytes);
  if (text.replaced > 0)
    report.warnings.push_back(cat("[documents] ", document.name, ": ", text.replaced, " invalid UTF-8 sequence",
                                  text.replaced == 1 ? "" : "s", " replaced by U+FFFD"));
  report.replaced += text.replaced;
  statement(*db_, "INSERT INTO files(name, size, modified, hash) VALUES (?1, ?2, ?3, ?4)")
      .bind(1, std::string_view(document.name))
      .bind(2, document.size)
      .bind(3, document.modified)
      .bind(4, std::string_view(hash))
      .run();
  const std::int64_t id = db_->last_id();
  statement insert(*db_, "INSERT INTO passages(file_id, title, body) VALUES (?1, ?2, ?3)");
  for (const passage& p : split_document(text.text, document.name, split))
    insert.bind(1, id).bind(2, std::string_view(p.title)).bind(3, std::string_view(p.body)).run();
  return true;
}

void document_index::remove_missing(const folder_listing& listing, index_report& report) {
  std::set<std::string_view> present;
  for (const document_file& document : listing.files) present.insert(document.name);
  std::vector<std::int64_t> missing;
  statement all(*db_, "SELECT id, name FROM files");
  while (all.step())
    if (present.count(all.text(1)) == 0) missing.push_back(all.integer(0));
  all.reset();
  for (const std::int64_t id : missing) remove_file(id);
  report.removed = static_cast<int>(missing.size());
}

void document_index::remove_file(std::int64_t id) {
  statement(*db_, "DELETE FROM passages WHERE file_id = ?1").bind(1, id).run();
  statement(*db_, "DELETE FROM files WHERE id = ?1").bind(1, id).run();
}

std::vector<passage_hit> document_index::match(const std::string& query, int count) {
  std::vector<passage_hit> hits;
  if (query.empty()) return hits;
  // Titles weigh double. Equal scores keep the order of the documents, so that results don't change from run to run.
  statement find(
      *db_,
      "SELECT p.id, f.name, p.title, p.body, -bm25(passages_fts, 2.0, 1.0) AS score FROM passages_fts JOIN passages p "
      "ON p.id = passages_fts.rowid "
      "JOIN files f ON f.id = p.file_id WHERE passages_fts MATCH ?1 ORDER BY score DESC, f.name, p.id LIMIT ?2");
  find.bind(1, std::string_view(query)).bind(2, std::int64_t{count});
  while (find.step()) hits.push_back({find.integer(0), find.text(1), {find.text(2), find.text(3)}, find.real(4)});
  return hits;
}

search_result document_index::search(std::string_view question, int count) {
  if (!db_) throw blockattn::argument_error("[index] search() before update()");
  const std::vector<std::string> words = question_words(question);
  try {
    if (auto hits = match(match_any(words), count); !hits.empty()) return {std::move(hits), match_kind::words};
    if (auto hits = match(match_beginnings(words), count); !hits.empty())
      return {std::move(hits), match_kind::beginnings};
  } catch (const database_error& e) {
    throw blockattn::io_error(failure(e.what(), "Delete the file; the next run builds it again."));
  }
  return {};
}

fs::path default_cache_directory(const fs::path& folder) {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  fs::path base;
  if (xdg != nullptr && fs::path(xdg).is_absolute())
    base = xdg;
  else if (home != nullptr && *home != '\0')
    base = fs::path(home) / ".cache";
  else
    base = fs::temp_directory_path();
  std::error_code failed;
  fs::path whole = fs::weakly_canonical(folder, failed);
  if (failed) whole = fs::absolute(folder);
  return base / "blockattn" / content_hash(whole.string()).substr(0, 16);
}

}  // namespace blockattn_command
