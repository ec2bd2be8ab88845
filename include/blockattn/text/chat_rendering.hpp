// Messages and passages as values of a template, and the template run over them.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/template.hpp"
#include "blockattn/text/utf8.hpp"

namespace blockattn::inline v0 {

/// One message of a conversation; roles are "system", "user", "assistant".
struct chat_message {
  std::string role, content;
};

/// What a template knows of the vocabulary: variables such as bos_token and eos_token, and their texts.
using special_tokens = std::vector<std::pair<std::string, std::string>>;

namespace detail {

/// A stretch of a message's content and the unit it counts as.
struct content_part {
  std::string text;
  std::uint32_t unit = 0;
};

struct rendered_message {
  std::string role;
  std::vector<content_part> content;
  std::uint32_t unit = 0;
};

/// What a template is run over.
struct conversation {
  std::vector<rendered_message> messages;
  std::vector<content_part> documents;
  bool open_answer = true;
};

/// A role that an application gives is markup: some templates make a control token of it. Any other text isn't.
[[nodiscard]] inline bool known_role(std::string_view role) {
  static constexpr std::array<std::string_view, 7> known = {"system",    "user",     "assistant", "tool",
                                                            "developer", "function", "ipython"};
  return std::find(known.begin(), known.end(), role) != known.end();
}

[[nodiscard]] inline jinja::value message_value(jinja::heap& heap, const rendered_message& m) {
  jinja::text_builder content;
  for (const content_part& part : m.content) content.append(to_valid_utf8(part.text).text, {part.unit, 0});
  jinja::dict d;
  d.unit = m.unit;
  d.set(heap.make("role"), heap.make(to_valid_utf8(m.role).text, {known_role(m.role) ? 0 : m.unit, 0}));
  d.set(heap.make("content"), heap.make(content.finish()));
  return heap.make(std::move(d));
}

[[nodiscard]] inline jinja::value document_value(jinja::heap& heap, const content_part& document, std::size_t number) {
  jinja::dict d;
  d.unit = document.unit;
  const jinja::value text = heap.make(to_valid_utf8(document.text).text, {document.unit, 0});
  d.set(heap.make("title"), heap.make(""));
  d.set(heap.make("text"), text);
  d.set(heap.make("content"), text);
  d.set(heap.make("doc_id"), static_cast<std::int64_t>(number + 1));
  return heap.make(std::move(d));
}

[[nodiscard]] inline jinja::text render(const jinja::template_source& source, const special_tokens& tokens,
                                        const conversation& c, const std::tm& now, const jinja::limits& most) {
  jinja::budget budget(most);
  jinja::heap heap(budget);
  std::vector<jinja::value> messages, documents;
  try {
    for (const rendered_message& m : c.messages) messages.push_back(message_value(heap, m));
    for (std::size_t i = 0; i < c.documents.size(); ++i) documents.push_back(document_value(heap, c.documents[i], i));
  } catch (const jinja::failure& f) {
    throw argument_error(cat("[chat_template] the messages are too long for a template: ", f.what));
  }
  jinja::variables variables = {
      {"messages", heap.make(std::move(messages))},
      {"add_generation_prompt", c.open_answer},
      {"tools", jinja::value::none()},
      {"documents", documents.empty() ? jinja::value::none() : heap.make(std::move(documents))}};
  for (const auto& [name, token_text] : tokens) variables.emplace_back(name, heap.make(to_valid_utf8(token_text).text));
  return source.render(heap, variables, now);
}

/// The system message put before the next message's content, for a template that has no place for one.
[[nodiscard]] inline std::optional<conversation> system_merged(conversation c) {
  if (c.messages.size() < 2 || c.messages.front().role != "system") return std::nullopt;
  std::vector<content_part> content = std::move(c.messages[0].content);
  content.push_back({"\n\n", c.messages[0].unit});
  content.insert(content.end(), c.messages[1].content.begin(), c.messages[1].content.end());
  c.messages[1].content = std::move(content);
  c.messages.erase(c.messages.begin());
  return c;
}

/// Renders; where the template refuses a system message or leaves it out, once more with it in the user's message.
[[nodiscard]] inline jinja::text render_with_system(const jinja::template_source& source, const special_tokens& tokens,
                                                    const conversation& c, const std::tm& now,
                                                    const jinja::limits& most) {
  const auto merged = system_merged(c);
  try {
    jinja::text result = render(source, tokens, c, now, most);
    const auto is_system = [&](const jinja::run& r) { return r.from.origin == c.messages.front().unit; };
    const bool blank = !merged || std::all_of(c.messages.front().content.begin(), c.messages.front().content.end(),
                                              [](const content_part& p) {
                                                return p.text.find_first_not_of(" \t\r\n\v\f") == std::string::npos;
                                              });
    if (blank || std::any_of(result.runs().begin(), result.runs().end(), is_system)) return result;
  } catch (const template_refusal&) {
    if (!merged) throw;
  }
  return render(source, tokens, *merged, now, most);
}

[[nodiscard]] inline std::tm local_time() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm result{};
  (void)::localtime_r(&now, &result);
  return result;
}

}  // namespace detail
}  // namespace blockattn::inline v0
