// Plans as text: NAME or NAME:key=value,key=value, the form of the command's --plan.
#pragma once

#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/generate/attention_plan.hpp"

namespace blockattn::inline v0 {

/// What a plan's name stands for.
struct plan_description {
  std::string_view name, options, reuses;
};

/// All plans that parse_plan() knows. Every one but `full` takes max_blocks and global_blocks beside its own options.
inline constexpr std::array plan_descriptions = {
    plan_description{"full", "", "nothing (a session's earlier turns)"},
    plan_description{"block", "rotation=queries|keys", "every block, in any order, at any position"},
    plan_description{"local", "", "every block, in any order, at any position"},
    plan_description{"prefixed", "", "every block behind the same block 0, in any order, at any position"},
    plan_description{"promptcache", "align=schema|left, slot=N", "a block at the same start"},
    plan_description{"pcw", "align=left|right, bos=ID", "every block, in any order, at any position"},
    plan_description{"superposition", "k=N, span=N, task=N", "block 0, and documents behind it that take as many positions"},
    plan_description{"ape", "T=X, S=X", "every block behind the same block 0, in any order"},
    plan_description{"epic", "k=N", "every block but its first k tokens, in any order, at any position"},
    plan_description{"cacheblend", "ratio=X, check=N, by=keys|values", "every block but the chosen tokens, in any order, at any position"},
    plan_description{"kvlink", "n=N, token=ID", "every block, in any order, at any position"},
    plan_description{"turborag", "positions=composite|reordered", "as local (composite) or block (reordered)"},
};

namespace detail {

/// The options of one plan: each is taken once, what is left at the end is unknown.
class plan_options_text {
 public:
  plan_options_text(std::string_view plan, std::string_view text) : plan_(plan) {
    while (!text.empty()) {
      const std::string_view part = text.substr(0, text.find(','));
      const auto equals = part.find('=');
      if (equals == std::string_view::npos || equals == 0) throw argument_error(cat("[plan] ", plan, ": '", part, "' isn't key=value"));
      for (const auto& [key, value] : options_)
        if (key == part.substr(0, equals)) throw argument_error(cat("[plan] ", plan, ": '", key, "' is given twice"));
      options_.emplace_back(part.substr(0, equals), part.substr(equals + 1));
      text.remove_prefix(std::min(part.size() + 1, text.size()));
    }
  }

  template <class Number>
  void number(std::string_view key, Number least, Number most, Number& to) {
    const auto value = take(key);
    if (!value) return;
    Number parsed{};
    const auto [end, problem] = std::from_chars(value->data(), value->data() + value->size(), parsed);
    if (problem != std::errc() || end != value->data() + value->size() || !(parsed >= least && parsed <= most))
      throw argument_error(cat("[plan] ", plan_, ": ", key, "=", *value, "; allowed: ", least, " to ", most));
    to = parsed;
  }

  /// Index of the value among `allowed`.
  void word(std::string_view key, std::initializer_list<std::string_view> allowed, auto& to) {
    const auto value = take(key);
    if (!value) return;
    const auto found = std::find(allowed.begin(), allowed.end(), *value);
    std::string list;
    for (const std::string_view word : allowed) list += cat(list.empty() ? "" : ", ", word);
    if (found == allowed.end()) throw argument_error(cat("[plan] ", plan_, ": ", key, "=", *value, "; allowed: ", list));
    to = static_cast<std::remove_reference_t<decltype(to)>>(found - allowed.begin());
  }

  void finish(std::string_view known) const {
    if (options_.empty()) return;
    throw argument_error(cat("[plan] ", plan_, " has no option '", options_.front().first, "'; allowed: ", known, known.empty() ? "" : ", ", plan_ == "full" ? "none" : "max_blocks=N, global_blocks=N"));
  }

 private:
  std::optional<std::string_view> take(std::string_view key) {
    const auto found = std::find_if(options_.begin(), options_.end(), [&](const auto& o) { return o.first == key; });
    if (found == options_.end()) return std::nullopt;
    const std::string_view value = found->second;
    options_.erase(found);
    return value;
  }

  std::string_view plan_;
  std::vector<std::pair<std::string_view, std::string_view>> options_;
};

inline constexpr index_t most_tokens = index_t{1} << 30;

/// The method of a plan that has one, with its own options.
[[nodiscard]] inline plan_method parse_method(std::string_view name, plan_options_text& options) {
  if (name == "local") return local_positions_plan{};
  if (name == "prefixed") return prefixed_plan{};
  if (name == "ape") {
    adaptive_parallel_plan plan;
    options.number("T", 0.01F, 100.0F, plan.temperature);
    options.number("S", 0.01F, 100.0F, plan.scale);
    return plan;
  }
  if (name == "pcw") {
    parallel_windows_plan plan;
    options.word("align", {"left", "right"}, plan.align);
    options.number<token_id>("bos", 0, std::numeric_limits<token_id>::max(), plan.bos);
    return plan;
  }
  if (name == "promptcache") {
    prompt_cache_plan plan;
    options.word("align", {"schema", "left"}, plan.placement);
    options.number<index_t>("slot", 0, most_tokens, plan.slot);
    return plan;
  }
  if (name == "epic") {
    epic_plan plan;
    options.number<index_t>("k", 0, most_tokens, plan.k);
    return plan;
  }
  if (name == "cacheblend") {
    cache_blend_plan plan;
    options.number("ratio", 0.0, 1.0, plan.ratio);
    options.number<index_t>("check", 1, 1000, plan.check);
    options.word("by", {"keys", "values"}, plan.measure);
    return plan;
  }
  if (name == "kvlink") {
    kv_link_plan plan;
    options.number<index_t>("n", 0, 1024, plan.links);
    options.number<token_id>("token", 0, std::numeric_limits<token_id>::max() / 2, plan.token);
    return plan;
  }
  if (name == "superposition") {
    superposition_plan plan;
    options.number<index_t>("k", 0, most_tokens, plan.keep);
    options.number("span", 0.0, 1e9, plan.span);
    options.number<index_t>("task", 0, most_tokens, plan.task);
    return plan;
  }
  bool composite = false;
  if (name == "turborag") {
    composite = true;
    int positions = 0;
    options.word("positions", {"composite", "reordered"}, positions);
    composite = positions == 0;
  }
  return composite ? plan_method(local_positions_plan{}) : plan_method();
}

}  // namespace detail

/// The plan that `text` describes, e.g. "epic:k=16" or "block:global_blocks=3". Throws argument_error for unknown names and options, and lists those there are.
[[nodiscard]] inline attention_plan parse_plan(std::string_view text) {
  const std::string_view name = text.substr(0, text.find(':'));
  const auto known = std::find_if(plan_descriptions.begin(), plan_descriptions.end(), [&](const plan_description& d) { return d.name == name; });
  if (known == plan_descriptions.end()) {
    std::string names;
    for (const plan_description& d : plan_descriptions) names += cat(names.empty() ? "" : ", ", d.name);
    throw argument_error(cat("[plan] no plan '", name, "'; there are: ", names));
  }
  detail::plan_options_text options(name, name.size() == text.size() ? std::string_view() : text.substr(name.size() + 1));
  attention_plan plan;
  if (name == "full") {
    plan.mode = attention_mode::full;
  } else {
    options.number<index_t>("max_blocks", -1, detail::most_tokens, plan.max_blocks);
    options.number<index_t>("global_blocks", 1, detail::most_tokens, plan.global_blocks);
    if (name == "block") options.word("rotation", {"queries", "keys"}, plan.rotate);
    plan.method = detail::parse_method(name, options);
  }
  options.finish(known->options);
  return plan;
}

/// Throws argument_error if a plan can't be carried out as it is meant in this model: says why.
inline void check_plan(const attention_plan& plan, const model_config& config) {
  if (!plan.is_method()) return;
  bool windows = false, blind = false;
  for (const layer_positions& layer : config.positions) {
    windows = windows || layer.window > 0;
    blind = blind || layer.rope < 0;
  }
  const bool moves = std::visit(
      []<class Method>(const Method&) {
        return std::is_same_v<Method, local_positions_plan> || std::is_same_v<Method, prompt_cache_plan> || std::is_same_v<Method, parallel_windows_plan> ||
               std::is_same_v<Method, superposition_plan> || std::is_same_v<Method, adaptive_parallel_plan>;
      },
      plan.method);
  if (moves && windows)
    throw argument_error(cat("[plan] ", plan.name(), " gives blocks positions other than their places in the prompt; layers of this model (", config.architecture,
                             ") have sliding windows, which are decided by those. Take block, epic, cacheblend or kvlink."));
  if (moves && blind)
    throw argument_error(cat("[plan] ", plan.name(), " gives blocks positions other than their places in the prompt; layers of this model (", config.architecture,
                             ") have no positions at all. Take block, epic, cacheblend or kvlink."));
}

}  // namespace blockattn::inline v0
