// A JSON state by subtree, lossless: a change in one subtree leaves the blocks of all others as they are.
//
// The text is cut, never written anew: a block is a stretch of the text as it stands, with its key before it and the comma behind it. A value that fits is one
// block; one that doesn't is cut into its members, and so on downwards. Scalars and empty containers side by side share a block while they fit; a container
// shares none, so that a frame of a game whose state changed in two objects has two new blocks.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/segment_stretches.hpp"

namespace blockattn::inline v0 {

/// Blocks of a JSON text.
struct json_segments {
  text_stretches blocks;
  bool parsed = true;  ///< false: it isn't JSON, and was cut by lines
  std::string note;    ///< then why
};

namespace detail {

/// Finds the values of a JSON text. Checks brackets, strings and commas; numbers and words are any run of other characters.
class json_outline {
 public:
  struct value {
    std::size_t begin, end;          ///< with its key, and with the comma and the white space behind it
    std::size_t inner_begin, inner_end;  ///< what lies between the brackets of a container
    std::size_t next;                ///< number of the value behind this one and all inside of it
    bool container;
  };

  explicit json_outline(std::string_view text) : text_(text) {
    skip();
    read_value(at_);
    if (problem_.empty() && at_ < text_.size()) fail("something behind the value");
    if (!values_.empty()) values_.front().begin = 0;
  }

  [[nodiscard]] const std::vector<value>& values() const { return values_; }
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  static constexpr std::size_t deepest = 512;

  void fail(const char* what) {
    if (problem_.empty()) problem_ = cat("byte ", at_, ": ", what);
  }

  void skip() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  void read_string() {
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_)
      if (text_[at_] == '\\') ++at_;
    if (at_ >= text_.size()) return fail("a string without an end");
    ++at_;
  }

  /// One value that began (with its key) at `begin`, and what belongs behind it.
  void read_value(std::size_t begin) {
    const std::size_t number = values_.size();
    values_.push_back({begin, begin, 0, 0, 0, false});
    if (at_ >= text_.size()) return fail("a value is missing");
    const char c = text_[at_];
    if (c == '{' || c == '[') {
      read_container(number, c == '{' ? '}' : ']');
    } else if (c == '"') {
      read_string();
    } else {
      const std::size_t first = at_;
      while (at_ < text_.size() && std::string_view(" \t\r\n,:{}[]\"").find(text_[at_]) == std::string_view::npos) ++at_;
      if (at_ == first) fail("no value");
    }
    skip();
    values_[number].end = at_;
    values_[number].next = values_.size();
  }

  void read_container(std::size_t number, char close) {
    if (++depth_ > deepest) return fail("too deep");
    ++at_;
    values_[number].container = true;
    values_[number].inner_begin = at_;
    skip();
    while (problem_.empty() && at_ < text_.size() && text_[at_] != close) {
      const std::size_t begin = values_.size() == number + 1 ? values_[number].inner_begin : at_;
      if (close == '}') read_key();
      if (!problem_.empty()) return;
      const std::size_t child = values_.size();
      read_value(begin);
      if (problem_.empty() && at_ < text_.size() && text_[at_] == ',') {
        ++at_;
        skip();
        values_[child].end = at_;
        if (at_ < text_.size() && text_[at_] == close) fail("a comma without a value behind it");
      } else if (problem_.empty() && (at_ >= text_.size() || text_[at_] != close)) {
        fail("neither a comma nor the end");
      }
    }
    values_[number].inner_end = at_;
    if (at_ >= text_.size()) return fail("a bracket without its other half");
    ++at_;
    --depth_;
  }

  void read_key() {
    if (text_[at_] != '"') return fail("a key is missing");
    read_string();
    skip();
    if (at_ >= text_.size() || text_[at_] != ':') return fail("no colon behind a key");
    ++at_;
    skip();
  }

  std::string_view text_;
  std::size_t at_ = 0, depth_ = 0;
  std::vector<value> values_;
  std::string problem_;
};

/// Cuts one value after the other.
class json_cutter {
 public:
  json_cutter(std::string_view text, const json_outline& outline, const stretch_limit& limit) : text_(text), values_(outline.values()), limit_(limit) {}

  [[nodiscard]] text_stretches cut() {
    cut_value(0);
    close(text_.size());
    return std::move(blocks_);
  }

 private:
  /// Appends the blocks of a value; what was before it is closed.
  void cut_value(std::size_t number) {
    const json_outline::value& v = values_[number];
    if (!v.container || limit_.fits(text_.substr(v.begin, v.end - v.begin))) return close(v.end);
    bool open = false;
    close(v.inner_begin);  // the key and the opening bracket
    for (std::size_t child = number + 1; child < v.next; child = values_[child].next) {
      const json_outline::value& c = values_[child];
      const bool small = !c.container || c.next == child + 1;
      if (small && open && limit_.fits(text_.substr(from_, c.end - from_))) {
        pending_ = c.end;
        continue;
      }
      flush();
      if (small) {
        pending_ = c.end;
        open = true;
      } else {
        cut_value(child);
        open = false;
      }
    }
    flush();
    close(v.end);
  }

  void flush() {
    if (pending_ > from_) close(pending_);
  }

  void close(std::size_t end) {
    if (end > from_) limit_.cut(text_.substr(from_, end - from_), blocks_);
    from_ = std::max(from_, end);
  }

  std::string_view text_;
  const std::vector<json_outline::value>& values_;
  const stretch_limit& limit_;
  text_stretches blocks_;
  std::size_t from_ = 0, pending_ = 0;
};

}  // namespace detail

/// Blocks of a JSON text, each at most max_tokens tokens (>= 4, or argument_error). What isn't JSON is cut by lines, and the result says why.
[[nodiscard]] inline json_segments json_blocks(std::string_view text, const tokenizer& vocabulary, index_t max_tokens) {
  const detail::stretch_limit limit(vocabulary, max_tokens);
  json_segments result;
  if (text.empty()) return result;
  const detail::json_outline outline(text);
  if (outline.problem().empty()) {
    result.blocks = detail::json_cutter(text, outline, limit).cut();
    return result;
  }
  result.parsed = false;
  result.note = cat("[segmenter] not JSON (", outline.problem(), "); cut by lines");
  std::vector<std::size_t> lines;
  for (std::size_t at = 0; at < text.size(); at += detail::line_at(text, at).size()) lines.push_back(at);
  result.blocks = detail::packed(detail::cut_before(text, lines), limit, stretch_packing::fill);
  return result;
}

}  // namespace blockattn::inline v0
