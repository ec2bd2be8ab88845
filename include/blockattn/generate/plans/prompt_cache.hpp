// Prompt Cache (arXiv 2311.04934): a block is encoded at its own start in a schema, alone, and is valid there only: another start is another entry of the cache.
//
// Which schema: one given by the caller (prompt_schema); or, for passages, block 0 and then a union of all passages for each place, `slot` tokens long (0: as long as
// the longest of the prompt), so that passage i starts at tokens(0) + (i - 1)·slot. Left-aligned: all passages start right behind block 0, the rest behind the
// longest. Arguments of a schema's parameters are computed anew and see what lies before them.
#pragma once

#include "blockattn/generate/plans/prompt_run.hpp"
#include "blockattn/generate/plans/prompt_schema.hpp"

namespace blockattn::inline v0 {

enum class schema_placement { schema, left };

struct prompt_cache_plan {
  static constexpr std::string_view name = "promptcache";
  schema_placement placement = schema_placement::schema;
  index_t slot = 0;
  std::shared_ptr<const schema_layout> layout = {};  ///< of a prompt_schema; then all blocks but the last are its modules

  /// Starts of the blocks, and the rest's. Throws argument_error if a block is longer than its slot, or the layout is another prompt's.
  [[nodiscard]] schema_layout places(const prompt_run& run) const {
    if (layout != nullptr) {
      if (layout->starts.size() != static_cast<std::size_t>(run.reusable()))
        throw argument_error(cat("[plan] promptcache: the schema's prompt has ", layout->starts.size(), " modules, this one ", run.reusable()));
      return *layout;
    }
    const index_t longest = run.longest(1, run.reusable());
    const index_t step = placement == schema_placement::left ? 0 : (slot > 0 ? slot : longest);
    if (placement == schema_placement::schema && longest > step)
      throw argument_error(cat("[plan] promptcache: a passage has ", longest, " tokens, slot=", step, ": modules would overlap. Allowed: at least ", longest));
    schema_layout result;
    for (index_t i = 0; i < run.reusable(); ++i) result.starts.push_back(i == 0 ? 0 : run.tokens(0) + (i - 1) * step);
    if (run.reusable() > 0) result.end = run.tokens(0) + (placement == schema_placement::left ? longest : (run.reusable() - 1) * step);
    return result;
  }

  void prefill(prompt_run& run) const {
    const schema_layout at = places(run);
    std::vector<block_encoding> encodings;
    for (index_t i = 0; i < run.reusable(); ++i) {
      const index_t start = at.starts[static_cast<std::size_t>(i)];
      encodings.push_back({run.ids(i), start, {}, {}, start == 0 ? fingerprint128{} : prompt_run::salt_of(name, {static_cast<double>(start)})});
    }
    const auto blocks = run.encode(encodings);
    std::vector<token_run> arguments;
    for (std::size_t i = 0; i < blocks.size(); ++i) place_around_holes(run, blocks[i], at, i, arguments);
    run.finish(arguments, run.rest(), at.end, static_cast<double>(at.end));
  }

 private:
  static void place_around_holes(prompt_run& run, const std::shared_ptr<const kv_block>& block, const schema_layout& at, std::size_t number, std::vector<token_run>& arguments) {
    index_t first = 0;
    const auto place = [&](index_t last) { run.place({block, at.starts[number] + first, true, {}, first, last - first}); };
    for (const schema_layout::hole& hole : at.holes) {
      if (hole.block != number) continue;
      place(hole.begin);
      if (!hole.ids.empty()) arguments.push_back({hole.ids, at.starts[number] + hole.begin});
      first = hole.begin + hole.tokens;
    }
    place(block->tokens());
  }
};

}  // namespace blockattn::inline v0
