// A template's text as tokens.
//
// White space as chat templates are written for: one line feed after a block tag or comment goes (trim_blocks), so do
// blanks before one that begins a line (lstrip_blocks), "-" in a tag strips everything on its side, "+" keeps it, and
// one line feed at the end of the template goes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/error.hpp"
#include "blockattn/text/jinja/text.hpp"

namespace blockattn::inline v0::jinja {

enum class token_type : std::uint8_t {
  data,
  output_begin,
  output_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  floating,
  op,
  end
};

struct token {
  token_type type = token_type::end;
  std::string text;  ///< of a string: its value; of an operator: as written
  position at;
};

class lexer {
 public:
  /// All tokens, the last one being `end`. Throws template_error.
  [[nodiscard]] static std::vector<token> scan(std::string_view source) {
    if (source.size() > most_source_bytes)
      throw template_error(cat("[jinja] the template has ", source.size(), " bytes; allowed: ", most_source_bytes));
    lexer l(with_line_feeds(source));
    l.scan_all();
    return std::move(l.tokens_);
  }

 private:
  explicit lexer(std::string source) : source_(std::move(source)) {}

  /// \r\n and \r become \n; one line feed at the end goes; broken UTF-8 becomes U+FFFD.
  [[nodiscard]] static std::string with_line_feeds(std::string_view source) {
    const std::string valid = to_valid_utf8(source).text;
    std::string out;
    for (std::size_t i = 0; i < valid.size(); ++i) {
      if (valid[i] != '\r')
        out += valid[i];
      else if (i + 1 == valid.size() || valid[i + 1] != '\n')
        out += '\n';
    }
    if (out.ends_with('\n')) out.pop_back();
    return out;
  }

  [[nodiscard]] bool starts(std::string_view s) const { return std::string_view(source_).substr(at_).starts_with(s); }
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }

  [[nodiscard]] position here() {
    for (; counted_ < at_; ++counted_) {
      ++where_.column;
      if (source_[counted_] == '\n') where_ = {where_.line + 1, 1};
    }
    return where_;
  }

  void add(token_type type, std::string text, position at) { tokens_.push_back({type, std::move(text), at}); }

  void scan_all() {
    while (at_ < source_.size()) {
      const std::size_t open = find_tag();
      const bool last = open == std::string::npos;
      const char sign = last ? '\0' : sign_of(open);
      add_data(last ? source_.size() : open, sign, !last && source_[open + 1] == '{');
      if (last) break;
      at_ = open;
      scan_tag(sign);
    }
    at_ = source_.size();
    add(token_type::end, "", here());
  }

  [[nodiscard]] std::size_t find_tag() const {
    for (std::size_t open = source_.find('{', at_); open != std::string::npos; open = source_.find('{', open + 1)) {
      const char kind = open + 1 < source_.size() ? source_[open + 1] : '\0';
      if (kind == '{' || kind == '%' || kind == '#') return open;
    }
    return std::string::npos;
  }

  /// '-', '+' or nothing after the mark that opens a tag.
  [[nodiscard]] char sign_of(std::size_t open) const {
    const char c = open + 2 < source_.size() ? source_[open + 2] : '\0';
    return c == '-' || c == '+' ? c : '\0';
  }

  /// The text before a tag, [at_, end), as the tag's sign leaves it.
  void add_data(std::size_t end, char sign, bool output) {
    const position begin = here();
    std::string_view data = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      data = stripped_right(data);
    } else if (sign != '+' && !output && end < source_.size()) {
      const std::size_t line = data.rfind('\n') + 1;  // npos + 1 == 0
      if ((line > 0 || begins_line_) && stripped_right(data).size() <= line) data = data.substr(0, line);
    }
    if (!data.empty()) add(token_type::data, std::string(data), begin);
    begins_line_ = false;
  }

  [[nodiscard]] static std::string_view stripped_right(std::string_view data) {
    while (!data.empty()) {
      std::size_t last = data.size() - 1;
      while (last > 0 && !detail::starts_character(data, last)) --last;
      if (!is_space(code_point_at(data, last))) break;
      data = data.substr(0, last);
    }
    return data;
  }

  void skip_space() {
    while (at_ < source_.size() && is_space(code_point_at(source_, at_))) {
      do ++at_;
      while (at_ < source_.size() && !detail::starts_character(source_, at_));
    }
  }

  /// Behind the mark that closes a tag: what its sign and trim_blocks take away.
  void after_tag(char sign, bool block) {
    const std::size_t before = at_;
    if (sign == '-')
      skip_space();
    else if (block && sign != '+' && peek() == '\n')
      ++at_;
    begins_line_ = at_ > before && source_[at_ - 1] == '\n';
  }

  void scan_tag(char sign) {
    const position begin = here();
    const char kind = source_[at_ + 1];
    const std::size_t inside = at_ + 2 + (sign != '\0' ? 1 : 0);
    if (kind == '#') return skip_comment(begin, inside);
    if (kind == '%' && scan_raw(begin, inside)) return;
    at_ = inside;
    add(kind == '{' ? token_type::output_begin : token_type::block_begin, "", begin);
    scan_code(begin, kind == '{');
  }

  void skip_comment(position begin, std::size_t inside) {
    const std::size_t end = source_.find("#}", inside);
    if (end == std::string::npos) fail_at(begin, "a comment that doesn't end: #} is missing");
    const char sign = end > inside && (source_[end - 1] == '-' || source_[end - 1] == '+') ? source_[end - 1] : '\0';
    at_ = end + 2;
    after_tag(sign, true);
  }

  /// The place behind WORD and the mark that closes its tag, and the sign before that; npos if it isn't that tag.
  [[nodiscard]] std::pair<std::size_t, char> word_tag(std::size_t inside, std::string_view word) const {
    std::size_t at = inside;
    const auto blanks = [&] {
      while (at < source_.size() && is_space(static_cast<unsigned char>(source_[at]))) ++at;
    };
    blanks();
    if (!std::string_view(source_).substr(at).starts_with(word)) return {std::string::npos, '\0'};
    at += word.size();
    blanks();
    const char c = at < source_.size() ? source_[at] : '\0';
    const char sign = c == '-' || c == '+' ? c : '\0';
    if (sign != '\0') ++at;
    if (!std::string_view(source_).substr(at).starts_with("%}")) return {std::string::npos, '\0'};
    return {at + 2, sign};
  }

  /// {% raw %} text {% endraw %}
  bool scan_raw(position begin, std::size_t inside) {
    const auto [body, sign] = word_tag(inside, "raw");
    if (body == std::string::npos || sign == '+') return false;
    at_ = body;
    if (sign == '-') skip_space();
    begins_line_ = at_ > 0 && source_[at_ - 1] == '\n';
    for (std::size_t open = source_.find("{%", at_); open != std::string::npos; open = source_.find("{%", open + 1)) {
      const char left = sign_of(open);
      const auto [end, right] = word_tag(open + 2 + (left != '\0' ? 1 : 0), "endraw");
      if (end == std::string::npos) continue;
      add_data(open, left, false);
      at_ = end;
      after_tag(right, true);
      return true;
    }
    fail_at(begin, "a raw block that doesn't end: {% endraw %} is missing");
  }

  void scan_code(position begin, bool output) {
    const std::string_view close = output ? "}}" : "%}";
    std::string open;  // brackets
    while (true) {
      while (at_ < source_.size() && is_space(code_point_at(source_, at_)))
        at_ += detail::utf8_sequence_at(source_, at_).length;
      if (at_ >= source_.size()) fail_at(begin, "a tag that doesn't end: ", close, " is missing");
      const char sign = peek() == '-' || (peek() == '+' && !output) ? peek() : '\0';
      if (open.empty() && std::string_view(source_).substr(at_ + (sign != '\0' ? 1 : 0)).starts_with(close)) {
        const position at = here();
        at_ += close.size() + (sign != '\0' ? 1 : 0);
        add(output ? token_type::output_end : token_type::block_end, std::string(close), at);
        return after_tag(sign, !output);
      }
      scan_token(open);
    }
  }

  void scan_token(std::string& open) {
    const char c = peek();
    const position at = here();
    if (c >= '0' && c <= '9') return scan_number(at);
    if (is_name_start(c)) {
      const std::size_t begin = at_;
      while (is_name_start(peek()) || (peek() >= '0' && peek() <= '9')) ++at_;
      return add(token_type::name, source_.substr(begin, at_ - begin), at);
    }
    if (c == '\'' || c == '"') return scan_string(at);
    static constexpr std::array<std::string_view, 26> operators = {"==", "!=", ">=", "<=", "//", "**", "+", "-", "*",
                                                                   "/",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                   ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view op : operators) {
      if (!starts(op)) continue;
      balance(op.front(), open, at);
      at_ += op.size();
      return add(token_type::op, std::string(op), at);
    }
    fail_at(at, "unexpected character '", source_.substr(at_, detail::utf8_sequence_at(source_, at_).length), "'");
  }

  [[nodiscard]] static bool is_name_start(char c) {
    return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
  }

  static void balance(char c, std::string& open, position at) {
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
      if (open.size() > most_source_depth) fail_at(at, "brackets nest deeper than ", most_source_depth);
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail_at(at, "unexpected '", c, "'");
      if (open.back() != c) fail_at(at, "unexpected '", c, "', expected '", open.back(), "'");
      open.pop_back();
    }
  }

  /// 12, 1_000, 0x1F, 1.5, 1e3. An attribute's number (items.0.name) is an integer.
  void scan_number(position at) {
    const auto digits = [&](std::string& out, auto accept) {
      while (accept(peek()) || (peek() == '_' && accept(peek(1)) && !out.empty())) {
        if (peek() != '_') out += peek();
        ++at_;
      }
    };
    const auto decimal = [](char c) { return c >= '0' && c <= '9'; };
    std::string number;
    if (peek() == '0' && std::string_view("xXoObB").find(peek(1)) != std::string_view::npos && peek(1) != '\0') {
      number = {'0', static_cast<char>(peek(1) | 0x20)};
      at_ += 2;
      digits(number, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); });
      return add(token_type::integer, number, at);
    }
    digits(number, decimal);
    bool floating = false;
    const bool after_dot = !tokens_.empty() && tokens_.back().type == token_type::op && tokens_.back().text == ".";
    if (peek() == '.' && decimal(peek(1)) && !after_dot) {
      number += '.';
      ++at_;
      digits(number, decimal);
      floating = true;
    }
    const std::size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
    if ((peek() == 'e' || peek() == 'E') && decimal(peek(1 + sign)) && !after_dot) {
      number += source_.substr(at_, 1 + sign);
      at_ += 1 + sign;
      digits(number, decimal);
      floating = true;
    }
    if (!floating && number.size() > 1 && number[0] == '0' && number.find_first_not_of('0') != std::string::npos)
      fail_at(at, "a number that begins with 0; octal numbers are written 0o17");
    add(floating ? token_type::floating : token_type::integer, number, at);
  }

  void scan_string(position at) {
    const char quote = source_[at_++];
    std::string out;
    while (peek() != quote) {
      if (at_ >= source_.size()) fail_at(at, "a string that doesn't end: ", quote, " is missing");
      if (peek() == '\\')
        scan_escape(out, at);
      else
        out += source_[at_++];
    }
    ++at_;
    add(token_type::string, out, at);
  }

  void scan_escape(std::string& out, position at) {
    const char c = peek(1);
    static constexpr std::string_view plain = "\\'\"abfnrtv", meant = "\\'\"\a\b\f\n\r\t\v";
    const std::size_t known = c == '\0' ? std::string_view::npos : plain.find(c);
    at_ += 2;
    if (at_ > source_.size()) fail_at(at, "a string that doesn't end");
    if (known != std::string_view::npos)
      out += meant[known];
    else if (c == 'x' || c == 'u' || c == 'U')
      out += utf8_of(scan_digits(16, c == 'x' ? 2 : c == 'u' ? 4 : 8, true, at));
    else if (c >= '0' && c <= '7')
      --at_, out += utf8_of(scan_digits(8, 3, false, at));
    else if (c == 'N')
      fail_at(at, "\\N{name} in a string isn't supported; write the character itself");
    else if (c != '\n')  // an escaped line feed is nothing, any other escape stays as it is
      out += '\\', --at_;
  }

  char32_t scan_digits(unsigned base, unsigned most, bool all, position at) {
    char32_t number = 0;
    unsigned n = 0;
    for (; n < most; ++n, ++at_) {
      const std::size_t digit = std::string_view("0123456789abcdef")
                                    .find(peek() >= 'A' && peek() <= 'F' ? static_cast<char>(peek() | 0x20) : peek());
      if (peek() == '\0' || digit >= base) break;
      number = number * base + static_cast<char32_t>(digit);
    }
    if (all && n < most) fail_at(at, "a broken escape in a string; expected ", most, " hexadecimal digits");
    return number;
  }

  std::string source_;
  std::vector<token> tokens_;
  std::size_t at_ = 0, counted_ = 0;
  position where_;
  bool begins_line_ = true;
};

}  // namespace blockattn::inline v0::jinja
