// "..." % values and "...".format(values), as far as templates go: sign, fill, alignment, width, precision, and the
// types s r d i u f F e E g G x X o b c %.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/operators.hpp"

namespace blockattn::inline v0::jinja {

namespace detail_format {

inline constexpr std::size_t most_width = 10'000;

/// What stands between % or : and the type.
struct spec {
  std::string fill = " ";
  char align = '\0';  ///< < > ^ =
  char sign = '-';    ///< - + or blank
  bool alternate = false, grouped = false;
  std::size_t width = 0;
  std::size_t precision = static_cast<std::size_t>(-1);
  char type = '\0';

  [[nodiscard]] bool precise() const { return precision != static_cast<std::size_t>(-1); }
};

[[nodiscard]] inline std::size_t read_width(std::string_view s, std::size_t& at) {
  std::size_t n = 0;
  for (; at < s.size() && s[at] >= '0' && s[at] <= '9'; ++at) {
    n = n * 10 + static_cast<std::size_t>(s[at] - '0');
    if (n > most_width) fail("a width or precision over ", most_width, " in a format");
  }
  return n;
}

[[nodiscard]] inline std::string grouped(std::string digits) {
  const std::size_t end = std::min(digits.find_first_not_of("0123456789"), digits.size());
  for (std::size_t at = end; at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

/// A number without its sign.
[[nodiscard]] inline std::string digits_of(const spec& s, value v) {
  const bool whole =
      std::string_view("dixXobuc").find(s.type) != std::string_view::npos || (s.type == '\0' && v.is_integral());
  std::string out;
  if (whole) {
    const std::int64_t n = v.is(kind::floating) ? static_cast<std::int64_t>(v.number()) : v.integer();
    auto rest = n < 0 ? 0 - static_cast<std::uint64_t>(n) : static_cast<std::uint64_t>(n);
    const unsigned base = s.type == 'x' || s.type == 'X' ? 16 : s.type == 'o' ? 8 : s.type == 'b' ? 2 : 10;
    const std::string_view digits = s.type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    do out.insert(out.begin(), digits[rest % base]);
    while ((rest /= base) > 0);
    if (s.alternate && base != 10) out.insert(0, std::string("0") + s.type);
  } else if (s.type == '\0' && !s.precise()) {
    out = float_text(std::abs(v.number()));
  } else {
    const char type = s.type == '\0' ? 'g' : s.type == '%' ? 'f' : static_cast<char>(s.type | 0x20);
    const auto form = type == 'f'   ? std::chars_format::fixed
                      : type == 'e' ? std::chars_format::scientific
                                    : std::chars_format::general;
    const double d = std::abs(v.number()) * (s.type == '%' ? 100 : 1);
    std::vector<char> buffer(most_width + 400);
    const int precision = static_cast<int>(s.precise() ? s.precision : 6);
    out.assign(buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), d, form, precision).ptr);
    if (s.type >= 'E' && s.type <= 'G')
      for (char& c : out) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    if (s.type == '%') out += '%';
  }
  return s.grouped ? grouped(std::move(out)) : out;
}

inline void append_padded(text_builder& out, const spec& s, std::string_view sign, const text& body, char standard) {
  const std::size_t length = sign.size() + body.length();
  const std::size_t missing = s.width > length ? s.width - length : 0;
  const char align = s.align == '\0' ? standard : s.align;
  const std::size_t left = align == '>' || align == '=' ? missing : align == '^' ? missing / 2 : 0;
  const auto fill = [&](std::size_t n) {
    for (; n > 0; --n) out.append(s.fill);
  };
  if (align == '=') out.append(sign);
  fill(left);
  if (align != '=') out.append(sign);
  out.append(body);
  fill(missing - left);
}

inline void append_number(text_builder& out, const spec& s, value v) {
  const bool negative = v.is(kind::floating) ? std::signbit(v.number()) && !std::isnan(v.number()) : v.integer() < 0;
  const std::string_view sign = negative ? "-" : s.sign == '+' ? "+" : s.sign == ' ' ? " " : "";
  append_padded(out, s, sign, text(digits_of(s, v)), '>');
}

inline void append_text(text_builder& out, const spec& s, const text& t, char standard) {
  const std::size_t end = s.precise() ? t.byte_of(s.precision) : t.size();
  append_padded(out, s, "", t.slice(0, end), standard);
}

}  // namespace detail_format

/// format % values
class percent_formatter {
 public:
  percent_formatter(runtime& r, const text& format, value values) : runtime_(r), format_(format), values_(values) {
    tuple_ = values.is(kind::list) && values.sequence().from == flavour::tuple;
  }

  [[nodiscard]] value run() {
    const std::string_view f = format_.bytes();
    for (std::size_t at = 0; at < f.size();) {
      const std::size_t percent = std::min(f.find('%', at), f.size());
      out_.append(format_, at, percent);
      if (percent == f.size()) break;
      at = percent + 1;
      conversion(at);
    }
    const bool map = values_.is(kind::dict);
    if (!map && !(values_.is(kind::list) && !tuple_) && used_ < (tuple_ ? values_.sequence().items.size() : 1))
      fail("not all values are used by the format");
    return runtime_.heap().make(out_.finish());
  }

 private:
  void conversion(std::size_t& at) {
    const std::string_view f = format_.bytes();
    value named;
    const bool has_name = at < f.size() && f[at] == '(';
    if (has_name) {
      const std::size_t close = f.find(')', at);
      if (close == std::string_view::npos || !values_.is(kind::dict)) fail("%(name) in a format needs a dictionary");
      const value* found = values_.mapping().find(f.substr(at + 1, close - at - 1));
      if (found == nullptr) fail("no value '", f.substr(at + 1, close - at - 1), "' for a format");
      named = *found;
      at = close + 1;
    }
    detail_format::spec s;
    for (; at < f.size() && std::string_view("-+ #0").find(f[at]) != std::string_view::npos; ++at) {
      if (f[at] == '-') s.align = '<';
      if (f[at] == '+' || (f[at] == ' ' && s.sign != '+')) s.sign = f[at];
      if (f[at] == '#') s.alternate = true;
      if (f[at] == '0' && s.align == '\0') s.align = '=', s.fill = "0";
    }
    if (s.align == '<') s.fill = " ";
    s.width = detail_format::read_width(f, at);
    if (at < f.size() && f[at] == '.') s.precision = detail_format::read_width(f, ++at);
    if (at >= f.size()) fail("a format that ends in %");
    s.type = f[at++];
    if (s.type == '%') return out_.append("%");
    append(s, has_name ? named : next());
  }

  value next() {
    if (!tuple_ && used_ == 0) return ++used_, values_;
    if (!tuple_ || used_ >= values_.sequence().items.size()) fail("not enough values for the format");
    return values_.sequence().items[used_++];
  }

  void append(detail_format::spec s, value v) {
    if (s.type == 's' || s.type == 'r' || s.type == 'a') {
      if (s.align == '=') s.align = '>', s.fill = " ";
      printer p(runtime_.use());
      return detail_format::append_text(out_, s, s.type == 's' ? p.str(v) : p.repr(v), '>');
    }
    if (s.type == 'c' && v.is(kind::text)) return detail_format::append_text(out_, s, v.string(), '>');
    if (std::string_view("diufFeEgGxXoc").find(s.type) == std::string_view::npos)
      fail("unknown type '", s.type, "' in a format");
    if (!v.is_number()) fail("%", s.type, " in a format needs a number, got ", type_name(v));
    if (s.type == 'c')
      return detail_format::append_text(out_, s, text(utf8_of(static_cast<char32_t>(v.integer()))), '>');
    detail_format::append_number(out_, s, v);
  }

  runtime& runtime_;
  const text& format_;
  value values_;
  bool tuple_ = false;
  std::size_t used_ = 0;
  text_builder out_;
};

/// format.format(...)
class brace_formatter {
 public:
  brace_formatter(runtime& r, const text& format, const arguments& values)
      : runtime_(r), format_(format), values_(values) {}

  [[nodiscard]] value run() {
    const std::string_view f = format_.bytes();
    for (std::size_t at = 0; at < f.size();) {
      const std::size_t brace = std::min(f.find_first_of("{}", at), f.size());
      out_.append(format_, at, brace);
      if (brace == f.size()) break;
      if (brace + 1 < f.size() && f[brace + 1] == f[brace]) {
        out_.append(format_, brace, brace + 1);
        at = brace + 2;
      } else {
        const std::size_t close = f[brace] == '{' ? f.find('}', brace) : std::string_view::npos;
        if (close == std::string_view::npos) fail("a single brace in a format");
        field(f.substr(brace + 1, close - brace - 1));
        at = close + 1;
      }
    }
    return runtime_.heap().make(out_.finish());
  }

 private:
  void field(std::string_view f) {
    const std::size_t colon = std::min(f.find(':'), f.size());
    const std::size_t bang = std::min(f.substr(0, colon).find('!'), colon);
    value v = find(f.substr(0, bang));
    if (bang < colon)
      v = runtime_.heap().make(f.substr(bang + 1, colon - bang - 1) == "s" ? printer(runtime_.use()).str(v)
                                                                           : printer(runtime_.use()).repr(v));
    append(parse(f.substr(std::min(colon + 1, f.size()))), v);
  }

  value find(std::string_view path) {
    const std::size_t end = std::min(path.find_first_of(".["), path.size());
    const std::string_view name = path.substr(0, end);
    value v;
    if (name.empty() || (name[0] >= '0' && name[0] <= '9')) {
      std::size_t at = 0;
      const std::size_t index = name.empty() ? automatic_++ : detail_format::read_width(name, at);
      if (index >= values_.positional.size()) fail("no value number ", index, " for a format");
      v = values_.positional[index];
    } else {
      const auto found =
          std::find_if(values_.named.begin(), values_.named.end(), [&](const auto& n) { return n.first == name; });
      if (found == values_.named.end()) fail("no value '", name, "' for a format");
      v = found->second;
    }
    for (std::string_view rest = path.substr(end); !rest.empty();) {
      const bool bracket = rest[0] == '[';
      const std::size_t stop = std::min(bracket ? rest.find(']') : rest.find_first_of(".[", 1), rest.size());
      const std::string_view part = rest.substr(1, stop - 1);
      v = runtime_.item(v, part);
      rest = rest.substr(std::min(stop + (bracket ? 1 : 0), rest.size()));
    }
    return v;
  }

  [[nodiscard]] static detail_format::spec parse(std::string_view f) {
    detail_format::spec s;
    std::size_t at = 0;
    const auto aligns = [&](std::size_t i) {
      return i < f.size() && std::string_view("<>^=").find(f[i]) != std::string_view::npos;
    };
    const std::size_t fill = f.empty() ? 0 : detail::utf8_sequence_at(f, 0).length;
    if (fill > 0 && aligns(fill)) {
      s.fill = f.substr(0, fill);
      at = fill;
    }
    if (aligns(at)) s.align = f[at++];
    if (at < f.size() && std::string_view("+- ").find(f[at]) != std::string_view::npos) s.sign = f[at++];
    if (at < f.size() && f[at] == '#') s.alternate = true, ++at;
    if (at < f.size() && f[at] == '0' && s.align == '\0') s.align = '=', s.fill = "0", ++at;
    s.width = detail_format::read_width(f, at);
    if (at < f.size() && f[at] == ',') s.grouped = true, ++at;
    if (at < f.size() && f[at] == '.') s.precision = detail_format::read_width(f, ++at);
    if (at < f.size()) s.type = f[at++];
    if (at != f.size()) fail("a format '", f, "' that isn't understood");
    return s;
  }

  void append(detail_format::spec s, value v) {
    if (v.is_number() && s.type != 's' && !(v.is(kind::boolean) && s.type == '\0')) {
      if (std::string_view("dxXobfFeEgG%c").find(s.type) == std::string_view::npos && s.type != '\0')
        fail("unknown type '", s.type, "' in a format");
      if (v.is(kind::floating) && std::string_view("dxXobc").find(s.type) != std::string_view::npos && s.type != '\0')
        fail("type '", s.type, "' in a format needs a whole number");
      return detail_format::append_number(out_, s, v);
    }
    if (s.type != '\0' && s.type != 's') fail("type '", s.type, "' in a format needs a number, got ", type_name(v));
    if (!v.is(kind::text) && (s.width > 0 || s.precise())) fail("a format with a width for ", type_name(v));
    if (s.align == '=') s.align = '<';
    detail_format::append_text(out_, s, str(runtime_, v), '<');
  }

  runtime& runtime_;
  const text& format_;
  const arguments& values_;
  std::size_t automatic_ = 0;
  text_builder out_;
};

}  // namespace blockattn::inline v0::jinja
