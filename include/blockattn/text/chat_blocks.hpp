// A rendered conversation, cut into blocks at the borders of messages and passages.
//
// A template writes a message out while its loop stands at it (the bytes' emitter), or takes its content from elsewhere
// (the bytes' origin). Messages and passages have numbers ("units"), in the order of the prompt, from 1 on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/text.hpp"
#include "blockattn/text/prompt.hpp"

namespace blockattn::inline v0::detail {

/// The bytes [begin, end) as a block: what the template wrote is markup, the rest content.
[[nodiscard]] inline text_block block_of(const jinja::text& t, std::size_t begin, std::size_t end) {
  text_block block;
  const auto add = [&](std::size_t from, std::size_t to, bool markup) {
    from = std::max(from, begin);
    to = std::min(to, end);
    if (from >= to) return;
    const std::string_view part = t.bytes().substr(from, to - from);
    if (!block.pieces.empty() && block.pieces.back().markup == markup)
      block.pieces.back().text += part;
    else
      block.pieces.push_back({std::string(part), markup});
  };
  if (t.runs().empty()) add(0, t.size(), true);
  std::size_t from = 0;
  for (const jinja::run& r : t.runs()) {
    add(from, r.end, r.from.origin == 0);
    from = r.end;
  }
  return block;
}

/// The blocks between the borders; borders ascend, empty blocks are left out.
[[nodiscard]] inline std::vector<text_block> blocks_between(const jinja::text& t, std::size_t begin,
                                                            const std::vector<std::size_t>& borders) {
  std::vector<text_block> blocks;
  for (const std::size_t border : borders) {
    if (border > begin) blocks.push_back(block_of(t, begin, border));
    begin = std::max(begin, border);
  }
  if (begin < t.size()) blocks.push_back(block_of(t, begin, t.size()));
  return blocks;
}

struct byte_range {
  std::size_t begin = 0, end = 0;
};

/// From the first to the last byte that satisfies `holds(mark)`; nothing if there is none.
template <class Holds>
[[nodiscard]] std::optional<byte_range> range_where(const jinja::text& t, Holds holds) {
  std::optional<byte_range> found;
  std::size_t from = 0;
  for (const jinja::run& r : t.runs()) {
    if (holds(r.from)) found = found ? byte_range{found->begin, r.end} : byte_range{from, r.end};
    from = r.end;
  }
  return found;
}
[[nodiscard]] inline std::optional<byte_range> content_of(const jinja::text& t, std::uint32_t unit) {
  return range_where(t, [unit](jinja::mark m) { return m.origin == unit; });
}
[[nodiscard]] inline std::optional<byte_range> emitted_by(const jinja::text& t, std::uint32_t unit) {
  return range_where(t, [unit](jinja::mark m) { return m.emitter == unit; });
}

/// Text that says something, unlike one that only has tokens such as <s>.
[[nodiscard]] inline bool has_words(std::string_view text) {
  return text.find_first_of(" \n\t") != std::string_view::npos;
}

/// A stretch of the rendering and the message it belongs to (0: none).
struct owned_run {
  std::size_t begin = 0, end = 0;
  std::uint32_t unit = 0;
  bool emitted = false;  ///< by the loop that stood at the message: with all that the template puts around it
};

[[nodiscard]] inline std::vector<owned_run> owned_runs(const jinja::text& t) {
  std::vector<owned_run> all;
  std::size_t from = 0;
  for (const jinja::run& r : t.runs()) {
    const bool emitted = r.from.emitter != 0;
    const std::uint32_t unit = emitted ? r.from.emitter : r.from.origin;
    if (!all.empty() && all.back().unit == unit && all.back().emitted == emitted)
      all.back().end = r.end;
    else
      all.push_back({from, r.end, unit, emitted});
    from = r.end;
  }
  if (t.runs().empty() && !t.empty()) all.push_back({0, t.size(), 0, false});
  return all;
}

/// Where messages begin. What stands between two of them goes with the one whose content it encloses; what stands
/// before the first is a block of its own if it has words (a system message of the template's), and so is what follows
/// the last only if nothing is there to go with.
[[nodiscard]] inline std::vector<std::size_t> message_borders(const jinja::text& t) {
  const std::vector<owned_run> runs = owned_runs(t);
  std::vector<std::size_t> borders;
  std::uint32_t current = 0;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const owned_run& r = runs[i];
    if (r.unit <= current) continue;  // an earlier message's words, or none's: goes with what is before
    std::size_t begin = r.begin;
    if (i > 0 && runs[i - 1].unit == 0) {
      const owned_run& between = runs[i - 1];
      const bool first = i == 1;
      const bool closes = i > 1 && !runs[i - 2].emitted;  // markup behind content that was taken from elsewhere
      const bool apart = first && r.emitted && has_words(t.bytes().substr(between.begin, between.end - between.begin));
      if (!apart && !(r.emitted && closes)) begin = between.begin;
    }
    if (begin > 0) borders.push_back(begin);
    current = r.unit;
  }
  return borders;
}

/// Where each passage begins, and the last one ends; nothing if they aren't there once each and in order, or the
/// question doesn't come after them. `units`: of the passages. A document that a loop writes out has its markup with
/// it.
[[nodiscard]] inline std::optional<std::vector<std::size_t>> passage_borders(const jinja::text& t, std::uint32_t first,
                                                                             std::uint32_t count,
                                                                             std::uint32_t question) {
  const auto asked = content_of(t, question);
  if (!asked) return std::nullopt;
  std::vector<std::size_t> borders;
  std::size_t end = 0;
  for (std::uint32_t unit = first; unit < first + count; ++unit) {
    const auto range = range_where(t, [unit](jinja::mark m) { return m.origin == unit || m.emitter == unit; });
    if (!range || range->begin < end) return std::nullopt;
    borders.push_back(range->begin);
    end = range->end;
  }
  borders.push_back(count > 0 ? end : asked->begin);
  if (asked->begin < end) return std::nullopt;
  return borders;
}

}  // namespace blockattn::inline v0::detail
