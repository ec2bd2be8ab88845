// Values as text: Python's str() and repr(), and JSON as json.dumps writes it. Marks of strings go along.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/text/jinja/value.hpp"

namespace blockattn::inline v0::jinja {

/// The shortest decimal that reads back as the same number, in Python's form: 1.0, 1e+16, 1e-05, inf, nan.
[[nodiscard]] inline std::string float_text(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), d, std::chars_format::scientific).ptr;
  std::string_view written(buffer.data(), static_cast<std::size_t>(end - buffer.data()));
  const bool negative = written.front() == '-';
  if (negative) written.remove_prefix(1);
  const std::size_t e = written.find('e');
  const int exponent = std::atoi(std::string(written.substr(e + 1)).c_str());
  std::string digits;
  for (const char c : written.substr(0, e))
    if (c != '.') digits += c;
  const auto count = static_cast<int>(digits.size());
  std::string result = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    result += digits.substr(0, 1) + (count > 1 ? "." + digits.substr(1) : "");
    const std::string power = std::to_string(std::abs(exponent));
    return result + (exponent < 0 ? "e-" : "e+") + (power.size() < 2 ? "0" : "") + power;
  }
  if (exponent < 0) return result + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return result + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
  return result + digits.substr(0, static_cast<std::size_t>(exponent + 1)) + "." +
         digits.substr(static_cast<std::size_t>(exponent + 1));
}

[[nodiscard]] inline std::string hexadecimal(char32_t c, std::size_t digits) {
  std::string out(digits, '0');
  for (std::size_t i = digits; i-- > 0; c >>= 4) out[i] = "0123456789abcdef"[c & 15];
  return out;
}

/// How json.dumps is asked to write.
struct json_style {
  bool ascii = false;  ///< escape what isn't ASCII
  bool sort_keys = false;
  std::optional<std::string> indent;  ///< one level
  std::string item_separator = ", ", key_separator = ": ";
};

class printer {
 public:
  explicit printer(budget& b) : budget_(b) {}

  /// str(v)
  [[nodiscard]] text str(value v) {
    if (v.is(kind::text)) return v.string();
    write(v, false);
    return take();
  }
  /// repr(v)
  [[nodiscard]] text repr(value v) {
    write(v, true);
    return take();
  }
  [[nodiscard]] text json(value v, const json_style& style) {
    write_json(v, style, 0);
    return take();
  }

 private:
  [[nodiscard]] text take() {
    budget_.check_string(out_.size());
    budget_.bytes(out_.size());
    return out_.finish();
  }

  void write(value v, bool quoted) {
    budget_.step();
    budget_.check_string(out_.size());
    switch (v.type()) {
      case kind::undefined: return out_.append(quoted ? "Undefined" : "");
      case kind::none: return out_.append("None");
      case kind::boolean: return out_.append(v.integer() != 0 ? "True" : "False");
      case kind::integer: return out_.append(std::to_string(v.integer()));
      case kind::floating: return out_.append(float_text(v.number()));
      case kind::text: return quoted ? write_quoted(v.string()) : out_.append(v.string());
      case kind::list: return write_list(v.sequence());
      case kind::dict: return write_dict(v.mapping());
      case kind::space:
        out_.append("<Namespace ");
        write_dict(v.space().attributes);
        return out_.append(">");
      case kind::callable:
        return v.function().macro != nullptr ? out_.append(cat("<Macro '", v.function().name, "'>"))
                                             : out_.append(cat("<function ", v.function().name, ">"));
      case kind::loop: return out_.append("<LoopContext>");
    }
  }

  void write_list(const list& l) {
    const deeper level(budget_);
    if (l.from == flavour::generator) return out_.append("<generator object>");
    if (l.from == flavour::range) return write_range(l);
    const bool view = l.from == flavour::keys || l.from == flavour::values || l.from == flavour::items;
    if (view)
      out_.append(l.from == flavour::keys ? "dict_keys(" : l.from == flavour::values ? "dict_values(" : "dict_items(");
    const bool tuple = l.from == flavour::tuple;
    out_.append(tuple ? "(" : "[");
    for (std::size_t i = 0; i < l.items.size(); ++i) {
      if (i > 0) out_.append(", ");
      write(l.items[i], true);
    }
    if (tuple && l.items.size() == 1) out_.append(",");
    out_.append(tuple ? ")" : "]");
    if (view) out_.append(")");
  }

  void write_range(const list& l) {
    const std::int64_t begin = l.items.empty() ? 0 : l.items.front().integer();
    const std::int64_t step = l.items.size() > 1 ? l.items[1].integer() - begin : 1;
    const std::int64_t end = l.items.empty() ? 0 : l.items.back().integer() + step;
    out_.append(cat("range(", begin, ", ", end, step == 1 ? "" : cat(", ", step), ")"));
  }

  void write_dict(const dict& d) {
    const deeper level(budget_);
    out_.append("{");
    for (std::size_t i = 0; i < d.entries.size(); ++i) {
      if (i > 0) out_.append(", ");
      write(d.entries[i].first, true);
      out_.append(": ");
      write(d.entries[i].second, true);
    }
    out_.append("}");
  }

  void write_quoted(const text& t) {
    const bool both = t.bytes().find('\'') != std::string_view::npos && t.bytes().find('"') == std::string_view::npos;
    const char quote = both ? '"' : '\'';
    const std::string_view mark_text(&quote, 1);
    out_.append(mark_text);
    for (std::size_t at = 0; at < t.size();) {
      const std::size_t end = t.next(at);
      const char32_t c = code_point_at(t.bytes(), at);
      if (c == static_cast<char32_t>(quote) || c == '\\')
        out_.append(std::string("\\") + static_cast<char>(c), t.at(at));
      else if (c == '\n' || c == '\r' || c == '\t')
        out_.append(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t", t.at(at));
      else if (unprintable(c))
        out_.append(c < 0x100     ? "\\x" + hexadecimal(c, 2)
                    : c < 0x10000 ? "\\u" + hexadecimal(c, 4)
                                  : "\\U" + hexadecimal(c, 8),
                    t.at(at));
      else
        out_.append(t, at, end);
      at = end;
    }
    out_.append(mark_text);
  }

  /// Controls, formats, separators and private use; unassigned code points aren't known here and print as they are.
  [[nodiscard]] static bool unprintable(char32_t c) {
    return c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD || (is_space(c) && c != ' ') ||
           (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) ||
           c == 0xFEFF || (c >= 0xFFF0 && c <= 0xFFFB) || (c >= 0xE000 && c <= 0xF8FF) || c >= 0xE0000;
  }

  void write_json(value v, const json_style& style, std::size_t level) {
    budget_.step();
    budget_.check_string(out_.size());
    switch (v.type()) {
      case kind::none: return out_.append("null");
      case kind::boolean: return out_.append(v.integer() != 0 ? "true" : "false");
      case kind::integer: return out_.append(std::to_string(v.integer()));
      case kind::floating:
        if (std::isfinite(v.number())) return out_.append(float_text(v.number()));
        return out_.append(std::isnan(v.number()) ? "NaN" : v.number() < 0 ? "-Infinity" : "Infinity");
      case kind::text: return write_json_text(v.string(), style.ascii);
      case kind::list:
        if (v.sequence().from == flavour::list || v.sequence().from == flavour::tuple)
          return write_json_list(v.sequence(), style, level);
        break;
      case kind::dict: return write_json_dict(v.mapping(), style, level);
      case kind::undefined:
      case kind::space:
      case kind::callable:
      case kind::loop: break;
    }
    fail("a value of type ", type_name(v), " can't be written as JSON",
         v.is(kind::undefined) && v.hint() != nullptr ? cat(" (", *v.hint(), ")") : "");
  }

  void line(const json_style& style, std::size_t level) {
    if (!style.indent) return;
    out_.append("\n");
    for (std::size_t i = 0; i < level; ++i) out_.append(*style.indent);
  }

  void write_json_list(const list& l, const json_style& style, std::size_t level) {
    const deeper guard(budget_);
    if (l.items.empty()) return out_.append("[]");
    out_.append("[");
    for (std::size_t i = 0; i < l.items.size(); ++i) {
      if (i > 0) out_.append(style.item_separator);
      line(style, level + 1);
      write_json(l.items[i], style, level + 1);
    }
    line(style, level);
    out_.append("]");
  }

  void write_json_dict(const dict& d, const json_style& style, std::size_t level) {
    const deeper guard(budget_);
    if (d.entries.empty()) return out_.append("{}");
    std::vector<const std::pair<value, value>*> order;
    for (const auto& entry : d.entries) order.push_back(&entry);
    if (style.sort_keys)
      std::stable_sort(order.begin(), order.end(),
                       [](const auto* a, const auto* b) { return sort_text(a->first) < sort_text(b->first); });
    out_.append("{");
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out_.append(style.item_separator);
      line(style, level + 1);
      write_json_key(order[i]->first, style);
      out_.append(style.key_separator);
      write_json(order[i]->second, style, level + 1);
    }
    line(style, level);
    out_.append("}");
  }

  [[nodiscard]] static std::string_view sort_text(value key) {
    return key.is(kind::text) ? key.string().bytes() : std::string_view();
  }

  void write_json_key(value key, const json_style& style) {
    if (key.is(kind::text)) return write_json_text(key.string(), style.ascii);
    if (!key.is_number() && !key.is(kind::none)) fail("a key of type ", type_name(key), " can't be written as JSON");
    out_.append("\"");
    write_json(key, style, 0);
    out_.append("\"");
  }

  void write_json_text(const text& t, bool ascii) {
    out_.append("\"");
    std::size_t from = 0;  // not yet written
    for (std::size_t at = 0; at < t.size();) {
      const std::size_t end = t.next(at);
      const char32_t c = code_point_at(t.bytes(), at);
      if (const std::string escape = json_escape(c, ascii); !escape.empty()) {
        out_.append(t, from, at);
        out_.append(escape, t.at(at));
        from = end;
      }
      at = end;
    }
    out_.append(t, from, t.size());
    out_.append("\"");
  }

  /// Empty if the character stands for itself.
  [[nodiscard]] static std::string json_escape(char32_t c, bool ascii) {
    switch (c) {
      case '"': return "\\\"";
      case '\\': return "\\\\";
      case '\n': return "\\n";
      case '\r': return "\\r";
      case '\t': return "\\t";
      case '\b': return "\\b";
      case '\f': return "\\f";
      default: break;
    }
    if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000 && c != 0x7F)) return "\\u" + hexadecimal(c, 4);
    if (ascii && c >= 0x10000) {
      const char32_t rest = c - 0x10000;
      return "\\u" + hexadecimal(0xD800 + (rest >> 10), 4) + "\\u" + hexadecimal(0xDC00 + (rest & 0x3FF), 4);
    }
    return {};
  }

  budget& budget_;
  text_builder out_;
};

[[nodiscard]] inline text str(runtime& r, value v) { return printer(r.use()).str(v); }

}  // namespace blockattn::inline v0::jinja
