#include "eval_questions.hpp"

#include <locale.h>
#include <wctype.h>
#include <zlib.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <random>
#include <string_view>
#include <utility>

#include "blockattn/core/error.hpp"
#include "blockattn/text/utf8.hpp"
#include "database.hpp"
#include "query.hpp"

namespace blockattn_command {
namespace {

using blockattn::cat;

/// The whole file, unpacked if it is gzip.
std::string read_unpacked(const std::string& file) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> in(gzopen(file.c_str(), "rb"), gzclose);
  if (in == nullptr)
    throw blockattn::io_error(cat("[questions] ", file, ": can't open. Give a file of JSON Lines, gzip or not."));
  std::string content;
  char part[1 << 16];
  int count = 0;
  while ((count = gzread(in.get(), part, sizeof part)) > 0) content.append(part, static_cast<std::size_t>(count));
  int status = Z_OK;
  const char* problem = gzerror(in.get(), &status);
  if (count < 0 || (status != Z_OK && status != Z_STREAM_END))
    throw blockattn::io_error(cat("[questions] ", file, ": can't read: ", problem, ". Truncated download?"));
  return content;
}

std::string field(const nlohmann::json& row, const char* key, const std::string& where) {
  if (!row.contains(key) || !row[key].is_string() || row[key].get_ref<const std::string&>().empty())
    throw blockattn::format_error(
        cat(where, ": no \"", key, "\"; a line has \"question\", \"answers\", \"title\" and \"text\""));
  return row[key].get<std::string>();
}

eval_question parse_question(std::string_view line, const std::string& where) {
  const auto row = nlohmann::json::parse(line, nullptr, false);
  if (!row.is_object()) throw blockattn::format_error(cat(where, ": not a JSON object"));
  eval_question result;
  result.question = field(row, "question", where);
  result.gold = {field(row, "title", where), field(row, "text", where)};
  if (row.contains("answers") && row["answers"].is_array())
    for (const auto& answer : row["answers"])
      if (answer.is_string() && !normalised_answer(answer.get<std::string>()).empty())
        result.answers.push_back(answer.get<std::string>());
  if (result.answers.empty())
    throw blockattn::format_error(cat(where, ": no \"answers\"; allowed: an array of texts, at least one"));
  return result;
}

/// Lower case of any script, code point by code point.
std::string lowered(const std::string& text) {
  static const locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  const std::string valid = blockattn::to_valid_utf8(text).text;
  std::string result;
  for (std::size_t i = 0; i < valid.size();) {
    const auto lead = static_cast<unsigned char>(valid[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length != 2 || utf8 == nullptr) {  // beyond two bytes, letters with case are rare
      for (std::size_t k = 0; k < length; ++k)
        result += length == 1 ? static_cast<char>(std::tolower(lead)) : valid[i + k];
    } else {
      const wint_t lower =
          towlower_l(static_cast<wint_t>((lead & 31U) << 6 | (static_cast<unsigned char>(valid[i + 1]) & 63U)), utf8);
      if (lower >= 0x80 && lower < 0x800) {
        result += static_cast<char>(0xC0U | lower >> 6);
        result += static_cast<char>(0x80U | (lower & 63U));
      } else {
        result.append(valid, i, 2);
      }
    }
    i += length;
  }
  return result;
}

}  // namespace

std::vector<eval_question> read_questions(const std::string& file) {
  const std::string content = read_unpacked(file);
  std::vector<eval_question> result;
  std::size_t number = 0;
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t end = std::min(content.find('\n', at), content.size());
    const std::string_view line = std::string_view(content).substr(at, end - at);
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos)
      result.push_back(parse_question(line, cat("[questions] ", file, ", line ", number)));
    at = end + 1;
  }
  if (result.empty()) throw blockattn::format_error(cat("[questions] ", file, ": no questions"));
  return result;
}

std::string normalised_answer(const std::string& text) {
  std::string kept;
  for (const char c : lowered(text))
    if (std::ispunct(static_cast<unsigned char>(c)) == 0) kept += c;
  std::string result;
  for (std::size_t at = 0; at < kept.size();) {
    const auto blank = [&](std::size_t i) { return std::string_view(" \t\r\n\v\f").find(kept[i]) != std::string_view::npos; };
    std::size_t end = at;
    while (end < kept.size() && !blank(end)) ++end;
    const std::string word = kept.substr(at, end - at);
    if (!word.empty() && word != "a" && word != "an" && word != "the") result += (result.empty() ? "" : " ") + word;
    at = end + 1;
  }
  return result;
}

bool contains_answer(const std::string& answer, const std::vector<std::string>& gold) {
  const std::string text = normalised_answer(answer);
  return std::any_of(gold.begin(), gold.end(),
                     [&](const std::string& g) { return text.find(normalised_answer(g)) != std::string::npos; });
}

passage_pool::passage_pool() : db_(std::make_unique<database>(":memory:", 0)) {
  db_->execute(
      "CREATE VIRTUAL TABLE pool USING fts5(title, body, tokenize='porter unicode61 remove_diacritics 2');");
}

passage_pool::~passage_pool() = default;

void passage_pool::add(const std::vector<eval_question>& questions) {
  transaction change(*db_);
  statement insert(*db_, "INSERT INTO pool(rowid, title, body) VALUES (?1, ?2, ?3)");
  for (const eval_question& q : questions) {
    if (!known_.emplace(std::pair(q.gold.title, q.gold.body), passages_.size()).second) continue;
    insert.bind(1, static_cast<std::int64_t>(passages_.size()))
        .bind(2, std::string_view(q.gold.title))
        .bind(3, std::string_view(q.gold.body))
        .run();
    passages_.push_back(q.gold);
    plain_.push_back(normalised_answer(q.gold.title + " " + q.gold.body));
  }
  insert.reset();
  change.commit();
}

void passage_pool::add_nearest(const eval_question& question, std::size_t count, std::vector<std::size_t>& chosen) {
  std::vector<std::string> forbidden;
  for (const std::string& answer : question.answers) forbidden.push_back(normalised_answer(answer));
  const auto usable = [&](std::size_t i) {
    if (passages_[i] == question.gold || std::find(chosen.begin(), chosen.end(), i) != chosen.end()) return false;
    return std::none_of(forbidden.begin(), forbidden.end(),
                        [&](const std::string& a) { return plain_[i].find(a) != std::string::npos; });
  };
  if (const std::string query = match_any(question_words(question.question)); !query.empty()) {
    statement find(*db_, "SELECT rowid FROM pool WHERE pool MATCH ?1 ORDER BY bm25(pool, 2.0, 1.0), rowid");
    find.bind(1, std::string_view(query));
    while (chosen.size() < count && find.step())
      if (const auto i = static_cast<std::size_t>(find.integer(0)); usable(i)) chosen.push_back(i);
  }
  for (std::size_t i = 0; i < passages_.size() && chosen.size() < count; ++i)
    if (usable(i)) chosen.push_back(i);
}

std::vector<passage> passage_pool::prompt_passages(const eval_question& question, int count, std::uint64_t seed,
                                                   std::size_t number) {
  std::vector<std::size_t> chosen;
  add_nearest(question, static_cast<std::size_t>(count) - 1, chosen);
  if (chosen.size() + 1 < static_cast<std::size_t>(count))
    throw blockattn::argument_error(cat("[eval] question '", question.question, "' has ", chosen.size(),
                                        " other passages without an answer in them; --passages ", count, " needs ",
                                        count - 1, ". Give more with --pool."));
  std::vector<passage> result;
  for (const std::size_t i : chosen) result.push_back(passages_[i]);
  std::mt19937_64 random(seed * 1'000'003 + number);
  result.insert(result.begin() + static_cast<std::ptrdiff_t>(random() % (result.size() + 1)), question.gold);
  return result;
}

}  // namespace blockattn_command
