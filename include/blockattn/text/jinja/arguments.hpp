// Arguments of a call by the names of the parameters.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "blockattn/text/jinja/value.hpp"

namespace blockattn::inline v0::jinja {

/// `required` of the N parameters must be given. Fails as Python does for too many, unknown and missing ones.
template <std::size_t N>
class bound {
 public:
  bound(std::string_view function, const arguments& given, const std::array<std::string_view, N>& names,
        std::size_t required = 0)
      : function_(function), names_(names) {
    if (given.positional.size() > N) fail(function, "() takes up to ", N, " arguments, got ", given.positional.size());
    for (std::size_t i = 0; i < given.positional.size(); ++i) values_[i] = given.positional[i];
    for (const auto& [name, v] : given.named) {
      const auto at = static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
      if (at == N) fail(function, "() has no parameter '", name, "'");
      if (values_[at]) fail(function, "() got '", name, "' twice");
      values_[at] = v;
    }
    for (std::size_t i = 0; i < required; ++i)
      if (!values_[i]) fail(function, "() needs '", names[i], "'");
  }

  [[nodiscard]] bool has(std::size_t i) const { return values_[i].has_value(); }
  [[nodiscard]] value get(std::size_t i, value standard = {}) const { return values_[i].value_or(standard); }
  [[nodiscard]] bool given(std::size_t i) const { return values_[i] && !values_[i]->is(kind::none); }
  [[nodiscard]] bool flag(std::size_t i, bool standard = false) const {
    return values_[i] ? truthy(*values_[i]) : standard;
  }
  [[nodiscard]] std::int64_t integer(std::size_t i, std::int64_t standard) const {
    if (!values_[i]) return standard;
    if (!values_[i]->is_integral())
      fail(function_, "(): '", names_[i], "' must be a whole number, got ", type_name(*values_[i]));
    return values_[i]->integer();
  }
  [[nodiscard]] const text& string(std::size_t i) const {
    if (!values_[i] || !values_[i]->is(kind::text))
      fail(function_, "(): '", names_[i], "' must be a string, got ", type_name(get(i)));
    return values_[i]->string();
  }

 private:
  std::string_view function_;
  std::array<std::string_view, N> names_;
  std::array<std::optional<value>, N> values_;
};

/// For functions without parameters.
inline void takes_nothing(std::string_view function, const arguments& given) {
  if (!given.positional.empty() || !given.named.empty()) fail(function, "() takes no arguments");
}

}  // namespace blockattn::inline v0::jinja
