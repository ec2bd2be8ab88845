// JSON (RFC 8259), read strictly from text that can't be trusted.
//
// A document is a flat list of nodes of 16 bytes, in the order of the text; strings without escapes stay where they lie in it. So a tokenizer.json of 30 MB costs its
// nodes and no more, and nesting costs no stack. Refused: anything the RFC doesn't allow, invalid UTF-8, lone surrogates, a key that appears twice in an object,
// nesting deeper than 64, text of 4 GiB and more. A number keeps its text until it is asked for, so integers of 64 bits are exact.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

enum class json_kind : std::uint8_t { null, boolean, number, string, array, object };

[[nodiscard]] constexpr const char* name(json_kind kind) {
  constexpr const char* names[] = {"null", "true or false", "a number", "a string", "an array", "an object"};
  return names[static_cast<std::size_t>(kind)];
}

class json_document;

/// A place in a document, which must outlive it and stay where it is. Cheap to copy. What is asked of a value of another kind throws format_error, which names the key.
class json_value {
 public:
  /// What an array or an object holds, one after the other; `key` is empty in an array.
  struct member;
  class iterator;
  struct range;

  [[nodiscard]] json_kind kind() const;
  [[nodiscard]] bool is_null() const { return kind() == json_kind::null; }
  [[nodiscard]] bool is_string() const { return kind() == json_kind::string; }
  [[nodiscard]] bool is_number() const { return kind() == json_kind::number; }
  [[nodiscard]] bool is_boolean() const { return kind() == json_kind::boolean; }
  [[nodiscard]] bool is_array() const { return kind() == json_kind::array; }
  [[nodiscard]] bool is_object() const { return kind() == json_kind::object; }

  [[nodiscard]] bool boolean() const;
  /// UTF-8. Lives as long as the document and its text.
  [[nodiscard]] std::string_view string() const;
  /// Throws format_error, too, if T can't hold the number (out of range; a fraction where T is an integer).
  template <class T>
    requires(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>)
  [[nodiscard]] T number() const;

  /// Elements of an array, members of an object; 0 for others.
  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] range elements() const;  ///< of an array
  [[nodiscard]] range members() const;   ///< of an object
  /// The member of that name, nothing if an object has none or it is null. Takes time in proportion to the object.
  [[nodiscard]] std::optional<json_value> find(std::string_view key) const;
  /// As find(), but what isn't there is a format_error that names it.
  [[nodiscard]] json_value at(std::string_view key) const;

  /// Throws format_error: the document's name, this value's key, and `parts`.
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const;

 private:
  friend class json_document;
  json_value(const json_document& document, std::uint32_t index, std::uint32_t key) : document_(&document), index_(index), key_(key) {}
  void require(json_kind wanted) const;

  static constexpr std::uint32_t no_key = std::numeric_limits<std::uint32_t>::max();
  const json_document* document_;
  std::uint32_t index_;
  std::uint32_t key_;  ///< the node of its key, or no_key
};

struct json_value::member {
  std::string_view key;
  json_value value;
};

class json_value::iterator {
 public:
  using value_type = member;
  using difference_type = std::ptrdiff_t;
  using iterator_category = std::input_iterator_tag;

  [[nodiscard]] member operator*() const;
  iterator& operator++();
  void operator++(int) { ++*this; }
  [[nodiscard]] bool operator==(const iterator& other) const { return at_ == other.at_; }

 private:
  friend class json_value;
  iterator(const json_document& document, std::uint32_t at, bool keys) : document_(&document), at_(at), keys_(keys) {}
  const json_document* document_;
  std::uint32_t at_;
  bool keys_;
};

struct json_value::range {
  iterator first, last;
  [[nodiscard]] iterator begin() const { return first; }
  [[nodiscard]] iterator end() const { return last; }
};

/// A parsed text. Doesn't copy it: it must outlive the document.
class json_document {
 public:
  /// `where` begins every message, e.g. "[safetensors] model.safetensors". Throws format_error, which says at which byte and what was expected there.
  json_document(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {
    if (text.size() >= std::numeric_limits<std::uint32_t>::max()) throw format_error(cat(where_, ": ", text.size(), " bytes of JSON; allowed: less than 4 GiB"));
    parse();
  }
  json_document(const json_document&) = delete;
  json_document& operator=(const json_document&) = delete;

  [[nodiscard]] json_value root() const { return {*this, 0, json_value::no_key}; }
  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  friend class json_value;
  friend class json_value::iterator;

  struct node {
    std::uint32_t begin = 0;  ///< of its text (of a string: without quotes), in `text_` or, if `decoded`, in `decoded_`
    std::uint32_t size = 0;   ///< of its text; of a container: how many values it has
    std::uint32_t end = 0;    ///< the node after it and all that it holds
    json_kind kind = json_kind::null;
    bool decoded = false;
  };
  static constexpr std::size_t most_depth = 64;

  [[nodiscard]] std::string_view text_of(const node& n) const { return std::string_view(n.decoded ? decoded_ : text_).substr(n.begin, n.size); }

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw format_error(cat(where_, ": at byte ", at_, " of the JSON: ", parts..., ". Truncated or corrupt file; fetch it again."));
  }
  [[noreturn]] void expected(const char* what) const {
    if (at_ >= text_.size()) fail("expected ", what, ", got the end");
    const auto byte = static_cast<unsigned char>(text_[at_]);
    if (byte >= 0x20 && byte < 0x7f) fail("expected ", what, ", got '", text_[at_], "'");
    fail("expected ", what, ", got byte ", static_cast<int>(byte));
  }

  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
  }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  /// All values, with a stack of the containers that are open.
  void parse() {
    std::vector<std::uint32_t> open;
    for (;;) {
      skip_blanks();
      if (!open.empty() && nodes_[open.back()].kind == json_kind::object) parse_key();
      parse_value(open);
      if (!close(open)) break;
    }
    skip_blanks();
    if (at_ != text_.size()) expected("the end");
  }

  void parse_key() {
    if (peek() != '"') expected("a key in quotes");
    parse_string();
    skip_blanks();
    if (!take(':')) expected("':'");
    skip_blanks();
  }

  void parse_value(std::vector<std::uint32_t>& open) {
    switch (peek()) {
      case '{':
      case '[':
        if (open.size() == most_depth) fail("nested deeper than ", most_depth);
        open.push_back(static_cast<std::uint32_t>(nodes_.size()));
        add(peek() == '{' ? json_kind::object : json_kind::array, at_, 0);
        ++at_;
        return;
      case '"': return parse_string();
      case 't': return parse_word("true", json_kind::boolean);
      case 'f': return parse_word("false", json_kind::boolean);
      case 'n': return parse_word("null", json_kind::null);
      default: return parse_number();
    }
  }

  /// After a value, or after the beginning of a container: closes what ends here and goes on to the next value. False at the end of the document.
  bool close(std::vector<std::uint32_t>& open) {
    while (!open.empty()) {
      skip_blanks();
      node& container = nodes_[open.back()];
      const bool object = container.kind == json_kind::object;
      const bool just_opened = open.back() + 1 == nodes_.size();
      if (!just_opened && take(',')) {
        skip_blanks();
        if (peek() == '}' || peek() == ']') expected("a value after ','");
        count(container);
        return true;
      }
      if (take(object ? '}' : ']')) {
        if (!just_opened) count(container);
        container.end = static_cast<std::uint32_t>(nodes_.size());
        if (object) check_keys(open.back());
        open.pop_back();
        continue;
      }
      if (just_opened) return true;
      expected(object ? "',' or '}'" : "',' or ']'");
    }
    return false;
  }
  static void count(node& container) { ++container.size; }

  void add(json_kind kind, std::size_t begin, std::size_t size, bool decoded = false) {
    if (nodes_.size() + 1 >= std::numeric_limits<std::uint32_t>::max()) fail("too many values");
    nodes_.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(size), static_cast<std::uint32_t>(nodes_.size() + 1), kind, decoded});
  }

  void parse_word(std::string_view word, json_kind kind) {
    if (text_.substr(at_, word.size()) != word) expected("a value");
    add(kind, at_, word.size());
    at_ += word.size();
  }

  void parse_number() {
    const std::size_t begin = at_;
    const auto digits = [&] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == first) expected(first == begin ? "a value" : "a digit");
    };
    (void)take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) (void)take('-');
      digits();
    }
    add(json_kind::number, begin, at_ - begin);
  }

  /// A string; a view of the text if it has no escapes.
  void parse_string() {
    const std::size_t begin = ++at_;
    std::size_t from = begin;  // of what isn't decoded yet
    std::size_t decoded_begin = decoded_.size();
    bool decoded = false;
    for (;;) {
      if (at_ >= text_.size()) expected("'\"'");
      const auto byte = static_cast<unsigned char>(text_[at_]);
      if (byte == '"') break;
      if (byte < 0x20) expected("a character of a string");
      if (byte == '\\') {
        decoded = true;
        decoded_.append(text_.substr(from, at_ - from));
        parse_escape();
        from = at_;
      } else if (byte < 0x80) {
        ++at_;
      } else {
        at_ += character_size();
      }
    }
    if (decoded) decoded_.append(text_.substr(from, at_ - from));
    add(json_kind::string, decoded ? decoded_begin : begin, decoded ? decoded_.size() - decoded_begin : at_ - begin, decoded);
    ++at_;
  }

  /// Bytes of the character of more than one byte at `at_` (Unicode 15, table 3-7).
  [[nodiscard]] std::size_t character_size() const {
    const auto at = [&](std::size_t i) { return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0U; };
    const unsigned first = at(0), second = at(1);
    const auto tail = [&](std::size_t i) { return (at(i) & 0xc0U) == 0x80U; };
    if (first >= 0xc2 && first <= 0xdf && tail(1)) return 2;
    if (first >= 0xe0 && first <= 0xef && tail(1) && tail(2) && !(first == 0xe0 && second < 0xa0) && !(first == 0xed && second > 0x9f)) return 3;
    if (first >= 0xf0 && first <= 0xf4 && tail(1) && tail(2) && tail(3) && !(first == 0xf0 && second < 0x90) && !(first == 0xf4 && second > 0x8f)) return 4;
    fail("invalid UTF-8");
  }

  void parse_escape() {
    ++at_;
    constexpr std::string_view letters = "\"\\/bfnrt", characters = "\"\\/\b\f\n\r\t";
    if (const std::size_t found = letters.find(peek()); found != std::string_view::npos && at_ < text_.size()) {
      decoded_ += characters[found];
      ++at_;
      return;
    }
    if (!take('u')) expected("an escape");
    std::uint32_t code = parse_hexadecimal();
    if (code >= 0xdc00 && code < 0xe000) fail("a lone surrogate");
    if (code >= 0xd800 && code < 0xdc00) {
      if (!take('\\') || !take('u')) fail("a lone surrogate");
      const std::uint32_t low = parse_hexadecimal();
      if (low < 0xdc00 || low >= 0xe000) fail("a lone surrogate");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(code);
  }

  [[nodiscard]] std::uint32_t parse_hexadecimal() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const std::size_t digit = std::string_view("0123456789abcdef").find(c >= 'A' && c <= 'F' ? static_cast<char>(c + ('a' - 'A')) : c);
      if (digit == std::string_view::npos || at_ >= text_.size()) expected("four hexadecimal digits");
      code = code * 16 + static_cast<std::uint32_t>(digit);
    }
    return code;
  }

  void append_utf8(std::uint32_t code) {
    const auto put = [&](std::uint32_t byte) { decoded_ += static_cast<char>(byte); };
    const auto tail = [&](int shift) { put(0x80 | ((code >> shift) & 0x3f)); };
    if (code < 0x80) return put(code);
    if (code < 0x800) {
      put(0xc0 | (code >> 6));
    } else if (code < 0x10000) {
      put(0xe0 | (code >> 12));
      tail(6);
    } else {
      put(0xf0 | (code >> 18));
      tail(12);
      tail(6);
    }
    tail(0);
  }

  void check_keys(std::uint32_t object) {
    std::vector<std::string_view> keys;
    for (std::uint32_t key = object + 1; key < nodes_[object].end; key = nodes_[key + 1].end) keys.push_back(text_of(nodes_[key]));
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail("the key '", twice->substr(0, 80), "' appears twice in one object");
  }

  std::string_view text_;
  std::string where_;
  std::size_t at_ = 0;
  std::vector<node> nodes_;
  std::string decoded_;  ///< of strings with escapes, one after the other
};

inline json_kind json_value::kind() const { return document_->nodes_[index_].kind; }

template <class... Parts>
void json_value::fail(const Parts&... parts) const {
  const auto named = key_ == no_key ? std::string("the value") : cat("'", document_->text_of(document_->nodes_[key_]).substr(0, 80), "'");
  throw format_error(cat(document_->where_, ": ", named, ' ', parts...));
}

inline void json_value::require(json_kind wanted) const {
  if (kind() != wanted) fail("is ", name(kind()), "; expected ", name(wanted));
}

inline bool json_value::boolean() const {
  require(json_kind::boolean);
  return document_->nodes_[index_].size == 4;
}

inline std::string_view json_value::string() const {
  require(json_kind::string);
  return document_->text_of(document_->nodes_[index_]);
}

template <class T>
  requires(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>)
T json_value::number() const {
  require(json_kind::number);
  const std::string_view text = document_->text_of(document_->nodes_[index_]);
  const char* end = text.data() + text.size();
  if constexpr (std::is_integral_v<T>) {
    T whole{};
    if (const auto [stop, error] = std::from_chars(text.data(), end, whole); error == std::errc{} && stop == end) return whole;
  }
  double value = 0;
  const auto error = std::from_chars(text.data(), end, value).ec;
  const bool small = error == std::errc::result_out_of_range && (text.find("e-") != text.npos || text.find("E-") != text.npos);  // too near to 0 for a double
  if (small) value = 0;
  bool fits = (error == std::errc{} || small) && std::isfinite(value);
  if constexpr (std::is_integral_v<T>)
    fits = fits && value == std::trunc(value) && value < std::ldexp(1.0, std::min(std::numeric_limits<T>::digits, 53)) &&
           value >= std::max(static_cast<double>(std::numeric_limits<T>::min()), -0x1p53);
  else
    fits = fits && std::abs(value) <= static_cast<double>(std::numeric_limits<T>::max());
  if (!fits) fail("is ", text.substr(0, 40), ", which can't be used there");
  return static_cast<T>(value);
}

inline std::size_t json_value::size() const {
  const auto& node = document_->nodes_[index_];
  return node.kind == json_kind::array || node.kind == json_kind::object ? node.size : 0;
}

inline json_value::range json_value::elements() const {
  require(json_kind::array);
  return {{*document_, index_ + 1, false}, {*document_, document_->nodes_[index_].end, false}};
}

inline json_value::range json_value::members() const {
  require(json_kind::object);
  return {{*document_, index_ + 1, true}, {*document_, document_->nodes_[index_].end, true}};
}

inline std::optional<json_value> json_value::find(std::string_view key) const {
  for (const auto& [name, value] : members())
    if (name == key) return value.is_null() ? std::nullopt : std::optional(value);
  return std::nullopt;
}

inline json_value json_value::at(std::string_view key) const {
  if (const auto found = find(key)) return *found;
  fail("lacks '", key, "'. The file is incomplete or of another kind.");
}

inline json_value::member json_value::iterator::operator*() const {
  if (!keys_) return {{}, {*document_, at_, no_key}};
  return {document_->text_of(document_->nodes_[at_]), {*document_, at_ + 1, at_}};
}

inline json_value::iterator& json_value::iterator::operator++() {
  at_ = document_->nodes_[keys_ ? at_ + 1 : at_].end;
  return *this;
}

}  // namespace blockattn::inline v0
