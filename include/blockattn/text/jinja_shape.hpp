// Brings the Jinja text of a chat template into one form, so that templates which say the same can be recognised as the
// same.
//
// The form: no white space outside of string literals, literals in single quotes with their escapes resolved (only '
// and \ are written
// \' and \\), adjacent output joined into one {{...+...}}, message.role written message['role'], comments dropped. Text
// outside of tags is a literal of output, after Jinja's rules for white space: "-" inside a tag strips, a line feed
// after a block tag goes (trim_blocks), so do blanks before a block tag that begins a line (lstrip_blocks), and one
// line feed at the end of the template. These are the settings that chat templates are written for.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace blockattn::inline v0::detail {

/// Collects the parts of a template in the form above.
class jinja_shape_writer {
 public:
  void literal(std::string_view text) {
    if (text.empty()) return;
    if (!in_literal_) {
      out_ += in_output_ ? "+'" : "{{'";
      in_output_ = in_literal_ = true;
    }
    for (const char c : text) out_ += c == '\'' ? "\\'" : c == '\\' ? "\\\\" : std::string(1, c);
  }

  /// A part of an output expression that isn't a literal.
  void expression(std::string_view code) {
    end_literal();
    out_ += in_output_ ? "+" : "{{";
    out_ += code;
    in_output_ = true;
  }

  void statement(std::string_view code) {
    end_output();
    out_ += "{%";
    out_ += code;
    out_ += "%}";
  }

  [[nodiscard]] std::string finish() {
    end_output();
    return std::move(out_);
  }

 private:
  void end_literal() {
    if (in_literal_) out_ += '\'';
    in_literal_ = false;
  }
  void end_output() {
    end_literal();
    if (in_output_) out_ += "}}";
    in_output_ = false;
  }

  std::string out_;
  bool in_output_ = false, in_literal_ = false;
};

[[nodiscard]] inline bool is_jinja_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// Reads the literal that starts with a quote at code[at], moves `at` behind it, and resolves its escapes.
[[nodiscard]] inline std::string read_jinja_literal(std::string_view code, std::size_t& at) {
  const char quote = code[at++];
  std::string text;
  while (at < code.size() && code[at] != quote) {
    if (code[at] != '\\' || at + 1 == code.size()) {
      text += code[at++];
      continue;
    }
    const char c = code[at + 1];
    at += 2;
    if (c == 'n')
      text += '\n';
    else if (c == 't')
      text += '\t';
    else if (c == '\\' || c == '\'' || c == '"')
      text += c;
    else
      (text += '\\') += c;  // any other escape stays as written: such a template is then like no known one
  }
  if (at < code.size()) ++at;
  return text;
}

/// Code without white space, literals in single quotes, .role and .content as subscripts.
[[nodiscard]] inline std::string canonical_jinja_code(std::string_view code) {
  std::string out;
  for (std::size_t at = 0; at < code.size();) {
    if (code[at] == '\'' || code[at] == '"') {
      jinja_shape_writer literal;
      const std::string text = read_jinja_literal(code, at);
      literal.literal(text);
      const std::string written = text.empty() ? "{{''}}" : literal.finish();
      out += std::string_view(written).substr(2, written.size() - 4);
    } else {
      if (!is_jinja_space(code[at])) out += code[at];
      ++at;
    }
  }
  for (const std::string_view name : {"role", "content"}) {
    const std::string dotted = "." + std::string(name);
    for (std::size_t at = out.find(dotted); at != std::string::npos; at = out.find(dotted, at + 1))
      out.replace(at, dotted.size(), "['" + std::string(name) + "']");
  }
  return out;
}

/// Writes an output expression, cut at each + that stands outside of literals and brackets.
inline void write_jinja_output(std::string_view code, jinja_shape_writer& out) {
  std::size_t begin = 0;
  int depth = 0;
  const auto write = [&](std::size_t end) {
    std::string_view part = code.substr(begin, end - begin);
    while (!part.empty() && is_jinja_space(part.front())) part.remove_prefix(1);
    while (!part.empty() && is_jinja_space(part.back())) part.remove_suffix(1);
    std::size_t after = 0;
    const bool quoted = !part.empty() && (part.front() == '\'' || part.front() == '"');
    const std::string text = quoted ? read_jinja_literal(part, after) : std::string();
    if (quoted && after == part.size())
      out.literal(text);
    else
      out.expression(canonical_jinja_code(part));
    begin = end + 1;
  };
  for (std::size_t at = 0; at < code.size();) {
    const char c = code[at];
    if (c == '\'' || c == '"') {
      (void)read_jinja_literal(code, at);
      continue;
    }
    depth += c == '(' || c == '[' || c == '{' ? 1 : c == ')' || c == ']' || c == '}' ? -1 : 0;
    if (c == '+' && depth == 0) write(at);
    ++at;
  }
  write(code.size());
}

/// The position behind the tag's closing mark, which doesn't count inside of literals; npos if it never closes.
[[nodiscard]] inline std::size_t jinja_tag_end(std::string_view jinja, std::size_t at, std::string_view close) {
  while (at < jinja.size()) {
    if (jinja.substr(at, 2) == close) return at + 2;
    if ((jinja[at] == '\'' || jinja[at] == '"') && close != "#}")
      (void)read_jinja_literal(jinja, at);
    else
      ++at;
  }
  return std::string_view::npos;
}

/// Where the next tag is: [open, end) with its marks; open == npos if there is none that closes.
struct jinja_tag {
  std::size_t open = std::string_view::npos, end = std::string_view::npos;
  bool output = false, block = false;  ///< {{ }}, {% %}; neither: a comment
};

[[nodiscard]] inline jinja_tag find_jinja_tag(std::string_view jinja, std::size_t at) {
  for (std::size_t open = jinja.find('{', at); open != std::string_view::npos && open + 1 < jinja.size();
       open = jinja.find('{', open + 1)) {
    const char kind = jinja[open + 1];
    if (kind != '{' && kind != '%' && kind != '#') continue;
    const std::size_t end = jinja_tag_end(jinja, open + 2, kind == '{' ? "}}" : kind == '%' ? "%}" : "#}");
    return end == std::string_view::npos ? jinja_tag{} : jinja_tag{open, end, kind == '{', kind == '%'};
  }
  return {};
}

/// The text before a block tag or a comment without the blanks that stand between the line's begin and the tag
/// (lstrip_blocks).
[[nodiscard]] inline std::string_view without_indent(std::string_view text, bool begins_line) {
  const std::size_t visible = text.find_last_not_of(" \t");
  if (visible == std::string_view::npos) return begins_line ? std::string_view() : text;
  return text[visible] == '\n' ? text.substr(0, visible + 1) : text;
}

/// The form of a template. A tag that never closes is text, so such a template is like no known one.
[[nodiscard]] inline std::string jinja_shape(std::string_view jinja) {
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);
  jinja_shape_writer out;
  bool strip = false;        // the last tag closed with "-"
  bool begins_line = true;   // nothing, or a line feed that went, stands before the text
  bool after_block = false;  // the last tag was a block or a comment
  for (std::size_t at = 0; at < jinja.size();) {
    const jinja_tag tag = find_jinja_tag(jinja, at);
    const bool last = tag.open == std::string_view::npos;
    std::string_view text = jinja.substr(at, last ? std::string_view::npos : tag.open - at);
    std::string_view code = last ? std::string_view() : jinja.substr(tag.open + 2, tag.end - tag.open - 4);
    if (after_block && !strip && text.starts_with('\n')) {
      text.remove_prefix(1);
      begins_line = true;
    }
    while (strip && !text.empty() && is_jinja_space(text.front())) text.remove_prefix(1);
    if (code.starts_with('-')) {
      while (!text.empty() && is_jinja_space(text.back())) text.remove_suffix(1);
    } else if (!last && !tag.output && !code.starts_with('+')) {
      text = without_indent(text, begins_line);
    }
    out.literal(text);
    if (last) break;
    strip = code.ends_with('-');
    if (code.starts_with('-') || code.starts_with('+')) code.remove_prefix(1);
    if (code.ends_with('-')) code.remove_suffix(1);
    if (tag.block) out.statement(canonical_jinja_code(code));
    if (tag.output) write_jinja_output(code, out);
    after_block = !tag.output;
    begins_line = false;
    at = tag.end;
  }
  return out.finish();
}

/// The text of a literal's inside as the form writes it; nothing if it isn't the inside of one literal.
[[nodiscard]] inline std::optional<std::string> jinja_literal_text(std::string_view inside) {
  std::string text;
  for (std::size_t at = 0; at < inside.size(); ++at) {
    if (inside[at] == '\'') return std::nullopt;
    if (inside[at] == '\\' && ++at == inside.size()) return std::nullopt;
    text += inside[at];
  }
  return text;
}

}  // namespace blockattn::inline v0::detail
