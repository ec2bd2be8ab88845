// The full-text index of a folder of documents: one SQLite file with an FTS5 table, ranked by bm25.
//
//   meta(key, value)                        "format": schema and splitter; another one empties the index
//   files(id, name, size, modified, hash)   what was indexed; a file with the same size and time isn't read again
//   passages(id, file_id, title, body)      and passages_fts(title, body), kept in step by triggers
//
// update() is one transaction under a file lock: it is seen whole or not at all, and two processes may call it at once.
// A file that isn't a sound SQLite database is deleted and built again; the report says so.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/log.hpp"
#include "documents.hpp"
#include "passages.hpp"

namespace blockattn_command {

class database;

/// What update() found and did.
struct index_report {
  int indexed = 0;  ///< files read and split
  int unchanged = 0;
  int removed = 0;            ///< files that are no longer there
  int unreadable = 0;         ///< files skipped
  std::int64_t passages = 0;  ///< in the index now
  std::int64_t replaced = 0;  ///< invalid byte sequences replaced, in the files read now
  bool rebuilt = false;       ///< the old index file was damaged
  std::vector<std::string> warnings;
};

/// A passage that matches a question.
struct passage_hit {
  std::int64_t id = 0;  ///< of the passage in this index
  std::string file;     ///< relative to the folder
  passage text;
  double score = 0;  ///< bm25, higher is better
};

/// Which words had to match for a result.
enum class match_kind {
  words,       ///< at least one word of the question
  beginnings,  ///< no word matched; words that begin alike did
  nothing
};

struct search_result {
  std::vector<passage_hit> hits;  ///< best first
  match_kind kind = match_kind::nothing;
};

class document_index {
 public:
  /// `file` is created by update(), with its folder. `format` names the way documents are split: tokenizer and limit.
  document_index(std::filesystem::path file, std::string format);
  ~document_index();
  document_index(const document_index&) = delete;
  document_index& operator=(const document_index&) = delete;

  /// Brings the index up to date with `folder`. `progress` counts files and may cancel: cancelled_error, and the index
  /// stays as it was. Throws io_error if the folder can't be read or the index can't be written, argument_error if
  /// there is no document or no text in it.
  index_report update(const std::filesystem::path& folder, const body_splitter& split,
                      const blockattn::progress_callback& progress = {});

  /// The `count` best passages for a question in ordinary words. update() comes first. Throws io_error.
  [[nodiscard]] search_result search(std::string_view question, int count);

  [[nodiscard]] const std::filesystem::path& file() const { return file_; }

 private:
  void open_or_rebuild(index_report& report);
  void prepare_schema();
  void update_files(const folder_listing& listing, const body_splitter& split,
                    const blockattn::progress_callback& progress, index_report& report);
  bool update_file(const document_file& document, const body_splitter& split, index_report& report);
  void remove_missing(const folder_listing& listing, index_report& report);
  void remove_file(std::int64_t id);
  [[nodiscard]] std::vector<passage_hit> match(const std::string& query, int count);
  [[nodiscard]] std::string failure(const std::string& what, const std::string& hint) const;

  std::filesystem::path file_;
  std::string format_;
  std::unique_ptr<database> db_;
};

/// Where the index of `folder` lies by default: ${XDG_CACHE_HOME:-~/.cache}/blockattn/<hash of the folder's absolute
/// path>.
[[nodiscard]] std::filesystem::path default_cache_directory(const std::filesystem::path& folder);

}  // namespace blockattn_command
