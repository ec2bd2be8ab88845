// Schemas of Prompt Cache (arXiv 2311.04934): modules of reusable text, each with a fixed place.
//
// A schema lists all modules that prompts may be put together from. Each starts where the running sum over the schema is, or where it says itself; a module that a
// prompt doesn't select leaves a gap. Members of a union share one start, and the union is as long as its longest member. A parameter is a stretch of a module that
// a prompt fills with up to so many tokens; the module is encoded with what it holds there (a filler), which nobody sees. User text starts at the schema's end.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

/// A stretch of a module, in tokens from the module's start.
struct schema_parameter {
  std::string name;
  index_t begin = 0, tokens = 0;
};

struct schema_module {
  std::string name;
  std::vector<token_id> ids;
  std::string member_of = {};  ///< the union it belongs to; members stand side by side in the schema
  std::vector<schema_parameter> parameters = {};
  std::optional<index_t> start = {};  ///< by default behind everything before it
};

/// What a prompt puts into a parameter.
struct schema_argument {
  std::string module, parameter;
  std::vector<token_id> ids;
};

/// Where the blocks of a prompt lie, as the plan needs it. Block i starts at starts[i]; the last block at `end`.
struct schema_layout {
  struct hole {
    std::size_t block;
    index_t begin, tokens;      ///< of the block, not seen
    std::vector<token_id> ids;  ///< at most `tokens`, in their place
  };
  std::vector<index_t> starts;
  index_t end = 0;
  std::vector<hole> holes;  ///< in order
};

/// A prompt made by a schema.
struct schema_prompt {
  std::vector<std::vector<token_id>> blocks;  ///< selected modules in the schema's order, then the user's text
  std::shared_ptr<const schema_layout> layout;
};

class prompt_schema {
 public:
  /// Throws argument_error: modules without a name or tokens, two of one name, that overlap, or end beyond `context`; parameters outside of their module or of each other.
  prompt_schema(std::vector<schema_module> modules, index_t context) : modules_(std::move(modules)) {
    std::set<std::string_view> names;
    std::string open_union;
    index_t union_start = 0;
    for (schema_module& m : modules_) {
      if (m.name.empty() || m.ids.empty()) throw argument_error(cat("[schema] module '", m.name, "' has no ", m.name.empty() ? "name" : "tokens"));
      if (!names.insert(m.name).second) throw argument_error(cat("[schema] two modules are named '", m.name, "'"));
      check_parameters(m);
      const bool joins = !m.member_of.empty() && m.member_of == open_union;
      if (!joins) union_start = std::max(m.start.value_or(end_), index_t{0});
      if (!joins && union_start < end_)
        throw argument_error(cat("[schema] module '", m.name, "' starts at ", union_start, "; the modules before it reach to ", end_, ". Modules mustn't overlap; make them members of one union, or move it."));
      if (joins && m.start.value_or(union_start) != union_start)
        throw argument_error(cat("[schema] module '", m.name, "' starts at ", *m.start, ", its union '", open_union, "' at ", union_start));
      open_union = m.member_of;
      starts_.push_back(union_start);
      end_ = std::max(end_, union_start + static_cast<index_t>(m.ids.size()));
      if (end_ > context) throw argument_error(cat("[schema] module '", m.name, "' ends at ", end_, "; the model's context has ", context));
    }
  }

  /// Where the user's text starts.
  [[nodiscard]] index_t end() const { return end_; }

  /// Where a module starts. Throws argument_error for names that aren't there, and lists those that are.
  [[nodiscard]] index_t start(std::string_view name) const { return starts_[find(name)]; }

  /// The prompt of these modules and the user's text. Throws argument_error: an unknown module, two members of one union, an unknown parameter, an argument that
  /// is too long, no text of the user.
  [[nodiscard]] schema_prompt select(const std::vector<std::string>& names, const std::vector<schema_argument>& arguments, std::vector<token_id> user) const {
    if (user.empty()) throw argument_error("[schema] the user's text is empty");
    std::set<std::size_t> chosen;
    std::map<index_t, std::string_view> at;
    for (const std::string& name : names) {
      const std::size_t i = find(name);
      if (chosen.insert(i).second && !at.emplace(starts_[i], name).second)
        throw argument_error(cat("[schema] modules '", at[starts_[i]], "' and '", name, "' belong to one union; select one of them"));
    }
    schema_prompt result;
    auto layout = std::make_shared<schema_layout>();
    for (const std::size_t i : chosen) {
      add_holes(modules_[i], arguments, result.blocks.size(), *layout);
      layout->starts.push_back(starts_[i]);
      result.blocks.push_back(modules_[i].ids);
    }
    for (const schema_argument& a : arguments) check_argument(a, chosen);
    layout->end = end_;
    result.blocks.push_back(std::move(user));
    result.layout = std::move(layout);
    return result;
  }

 private:
  [[nodiscard]] std::size_t find(std::string_view name) const {
    std::string known;
    for (std::size_t i = 0; i < modules_.size(); ++i) {
      if (modules_[i].name == name) return i;
      known += cat(i > 0 ? ", " : "", modules_[i].name);
    }
    throw argument_error(cat("[schema] no module '", name, "'; there are: ", known));
  }

  static void check_parameters(const schema_module& m) {
    index_t free = 0;
    for (const schema_parameter& p : m.parameters) {
      if (p.tokens < 1 || p.begin < free || p.begin + p.tokens > static_cast<index_t>(m.ids.size()))
        throw argument_error(cat("[schema] parameter '", p.name, "' of module '", m.name, "' has the tokens ", p.begin, " to ", p.begin + p.tokens - 1, "; allowed: within ", free, " and ",
                                 static_cast<index_t>(m.ids.size()) - 1));
      free = p.begin + p.tokens;
    }
  }

  /// Every parameter of a selected module is a hole, with an argument in it or without.
  static void add_holes(const schema_module& m, const std::vector<schema_argument>& arguments, std::size_t block, schema_layout& layout) {
    for (const schema_parameter& p : m.parameters) {
      schema_layout::hole hole{block, p.begin, p.tokens, {}};
      for (const schema_argument& a : arguments)
        if (a.module == m.name && a.parameter == p.name) hole.ids = a.ids;
      if (static_cast<index_t>(hole.ids.size()) > p.tokens)
        throw argument_error(cat("[schema] parameter '", p.name, "' of module '", m.name, "' has room for ", p.tokens, " tokens, the argument has ", hole.ids.size()));
      layout.holes.push_back(std::move(hole));
    }
  }

  void check_argument(const schema_argument& a, const std::set<std::size_t>& chosen) const {
    const std::size_t i = find(a.module);
    bool known = false;
    for (const schema_parameter& p : modules_[i].parameters) known = known || p.name == a.parameter;
    if (!known || chosen.count(i) == 0)
      throw argument_error(cat("[schema] argument for '", a.parameter, "' of module '", a.module, "': ", known ? "the module isn't selected" : "the module has no such parameter"));
  }

  std::vector<schema_module> modules_;
  std::vector<index_t> starts_;
  index_t end_ = 0;
};

}  // namespace blockattn::inline v0
