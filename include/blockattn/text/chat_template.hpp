// Chat templates: messages to the text that a model was trained on, cut into blocks.
//
// A file carries its template as Jinja text (tokenizer.chat_template), which is run (jinja/template.hpp). What the
// template writes is markup, in which control tokens act; contents and passages are content, in which they are ordinary
// text, wherever the template puts them and whatever it does to them. The text is cut where messages and passages
// begin, so that each can be reused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/gguf.hpp"
#include "blockattn/text/chat_blocks.hpp"
#include "blockattn/text/chat_rendering.hpp"
#include "blockattn/text/prompt.hpp"

namespace blockattn::inline v0 {

/// Makes blocks of messages. Immutable; copies are cheap.
class chat_template {
 public:
  /// ChatML:  <|im_start|>ROLE\nCONTENT<|im_end|>\n  for each message, then  <|im_start|>assistant\n  to open an
  /// answer. With `default_system`, a conversation that doesn't start with a system message gets this one.
  explicit chat_template(const std::optional<std::string>& default_system = std::nullopt)
      : chat_template(chatml(default_system), {}, "ChatML") {}

  /// The template of a Jinja text. `tokens`: its variables bos_token, eos_token and so on; `name`: what an error calls
  /// it. Throws format_error: "[chat_template] NAME: [jinja] line:column ...".
  [[nodiscard]] static chat_template from_source(std::string_view jinja, special_tokens tokens = {},
                                                 std::string_view name = "the template") {
    return chat_template(jinja, std::move(tokens), name);
  }
  [[nodiscard]] static chat_template parse(std::string_view jinja, std::string_view name = "the template") {
    return from_source(jinja, {}, name);
  }

  /// The template of a model file, or the one that the file calls `variant` (tokenizer.chat_template.VARIANT:
  /// "tool_use", "rag"). Throws format_error if it isn't there or isn't Jinja.
  [[nodiscard]] static chat_template from_gguf(const checkpoint& file, std::string_view variant = {});

  /// Renders for a given date (strftime_now) instead of the present one.
  [[nodiscard]] chat_template dated(const std::tm& now) const {
    chat_template result = *this;
    result.now_ = now;
    return result;
  }
  [[nodiscard]] chat_template limited(const jinja::limits& most) const {
    chat_template result = *this;
    result.limits_ = most;
    return result;
  }

  /// A block a message, a system message of the template's own first if it adds one; the last block also opens the
  /// answer if asked for. The blocks' text is what the template gives. A template without a place for a system message
  /// gets it in the user's message. Throws argument_error (no message; template_refusal: roles that the template
  /// doesn't take) and template_error.
  [[nodiscard]] std::vector<text_block> messages(const std::vector<chat_message>& messages,
                                                 bool open_answer = true) const {
    const jinja::text text = rendered(conversation_of(messages, open_answer));
    return detail::blocks_between(text, 0, borders(text, messages));
  }

  /// The same conversation as messages(), behind `held`, the text of it that a session has already (prompts and
  /// answers). Nothing if the template writes the earlier messages differently now (some leave out thoughts of earlier
  /// answers): the session must then begin anew. What closes the last answer is in the first block.
  [[nodiscard]] std::optional<std::vector<text_block>> extend(const std::vector<chat_message>& messages,
                                                              std::string_view held) const {
    const jinja::text text = rendered(conversation_of(messages, true));
    if (!text.bytes().starts_with(held) || text.size() == held.size()) return std::nullopt;
    std::vector<std::size_t> behind = borders(text, messages);
    std::erase_if(behind, [&](std::size_t border) { return border <= held.size(); });
    if (!behind.empty()) behind.erase(behind.begin());  // the end of the answer goes with the message behind it
    return detail::blocks_between(text, held.size(), behind);
  }

  /// A question over passages. Block 0: the system message and the opening of the user's; blocks 1..n: the passages,
  /// best last; the last block: the question, the end of the turn, the opening of the answer. The text is that of
  /// messages() with one user message of all passages and the question; a template that knows documents gets the
  /// passages as such. A passage that doesn't end with a line feed gets "\n\n", so that it doesn't run into the next
  /// one: its block is the same in any prompt. Without a system message (""), the template's own is used, if it has
  /// one. Where the template's text can't be cut (it repeats or reorders the passages), it is one block. Throws
  /// argument_error if the question or a passage is blank.
  [[nodiscard]] std::vector<text_block> rag(std::string_view system, const std::vector<std::string>& passages,
                                            std::string_view question) const;

  /// The user's next turn, after an answer whose end isn't in the session yet: closes the answer, asks, opens the next
  /// one. Throws argument_error if the text is blank.
  [[nodiscard]] text_block next_turn(std::string_view user_text) const {
    if (blank(user_text)) throw argument_error("[chat_template] the user's text is empty; ask something");
    const jinja::text text =
        rendered(conversation_of({{"user", "A"}, {"assistant", "B"}, {"user", std::string(user_text)}}, true));
    const auto answer = detail::content_of(text, 2), asked = detail::content_of(text, 3);
    if (!answer || !asked || answer->end > asked->begin)
      throw format_error(cat("[chat_template] ", name_,
                             ": it leaves out or reorders earlier turns, so a conversation can't go on behind them; "
                             "render all messages anew"));
    return detail::block_of(text, answer->end, text.size());
  }

  /// Whether a conversation that goes on is written as messages() writes it whole: the earlier text stays as it was.
  [[nodiscard]] bool keeps_history() const {
    try {
      const auto opening = rendered(conversation_of({{"user", "A"}}, true)),
                 whole = rendered(conversation_of({{"user", "A"}, {"assistant", "B"}, {"user", "C"}}, true));
      return whole.bytes().starts_with(std::string(opening.bytes()) + "B");
    } catch (const error&) {
      return false;
    }
  }

  /// The text before the first message that the template adds by itself, if it has words: a system message of its own.
  [[nodiscard]] std::optional<std::string> preamble() const {
    const std::vector<text_block> blocks = messages({{"user", "A"}}, false);
    return blocks.size() > 1 ? std::optional(blocks.front().text()) : std::nullopt;
  }

 private:
  chat_template(std::string_view jinja, special_tokens tokens, std::string_view name)
      : source_(parsed(jinja, name)), tokens_(std::move(tokens)), name_(name) {}

  [[nodiscard]] static jinja::template_source parsed(std::string_view jinja, std::string_view name) {
    try {
      return jinja::template_source(jinja);
    } catch (const template_error& e) {
      throw format_error(cat("[chat_template] ", name, ": ", e.what()));
    }
  }

  [[nodiscard]] static std::string chatml(const std::optional<std::string>& system) {
    std::string literal;
    for (const char c : system.value_or(""))
      literal += c == '\'' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
    return cat(system ? cat("{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n", literal,
                            "<|im_end|>\n' }}{% endif %}")
                      : "",
               "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
               "'<|im_end|>' + '\n' }}{% endfor %}",
               "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  }

  [[nodiscard]] static bool blank(std::string_view text) {
    return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
  }

  /// Message number i is unit i + 1.
  [[nodiscard]] static detail::conversation conversation_of(const std::vector<chat_message>& messages,
                                                            bool open_answer) {
    if (messages.empty()) throw argument_error("[chat_template] no messages; give at least one");
    detail::conversation c;
    c.open_answer = open_answer;
    for (const chat_message& m : messages) {
      const auto unit = static_cast<std::uint32_t>(c.messages.size() + 1);
      c.messages.push_back({m.role, {{m.content, unit}}, unit});
    }
    return c;
  }

  [[nodiscard]] jinja::text rendered(const detail::conversation& c) const {
    jinja::text text = detail::render_with_system(source_, tokens_, c, now_.value_or(detail::local_time()), limits_);
    if (text.empty())
      throw format_error(cat("[chat_template] ", name_, ": it gives no text for these messages; use another template"));
    return text;
  }

  /// Where blocks begin.
  [[nodiscard]] std::vector<std::size_t> borders(const jinja::text& text,
                                                 const std::vector<chat_message>& messages) const {
    std::vector<std::size_t> result = detail::message_borders(text);
    if (const std::size_t border = own_system_end(text, messages.front()); border > 0) {
      result.push_back(border);
      std::sort(result.begin(), result.end());
    }
    return result;
  }

  /// Where a system message ends that the template's loop writes before the first message; 0 if it doesn't. It is what
  /// the first message has before it and the same message later in a conversation hasn't.
  [[nodiscard]] std::size_t own_system_end(const jinja::text& text, const chat_message& first) const {
    const auto here = detail::emitted_by(text, 1);
    if (!here || first.role == "system") return 0;
    try {
      const jinja::text probe =
          rendered(conversation_of({first, {first.role == "assistant" ? "user" : "assistant", "A"}, first}, false));
      const auto later = detail::emitted_by(probe, 3);
      if (!later) return 0;
      const std::string_view mine = text.bytes().substr(here->begin, here->end - here->begin),
                             other = probe.bytes().substr(later->begin, later->end - later->begin);
      if (mine.size() <= other.size() || !mine.ends_with(other)) return 0;
      const std::size_t before = mine.size() - other.size();
      return detail::has_words(mine.substr(0, before)) ? here->begin + before : 0;
    } catch (const error&) {
      return 0;  // the template doesn't take such a conversation
    }
  }

  jinja::template_source source_;
  special_tokens tokens_;
  std::string name_;
  std::optional<std::tm> now_;
  jinja::limits limits_;
};

inline std::vector<text_block> chat_template::rag(std::string_view system, const std::vector<std::string>& passages,
                                                  std::string_view question) const {
  if (blank(question)) throw argument_error("[chat_template] the question is empty; ask something");
  detail::conversation plain;
  if (!system.empty()) plain.messages.push_back({"system", {{std::string(system), 1}}, 1});
  const auto count = static_cast<std::uint32_t>(passages.size());
  constexpr std::uint32_t user = 2, asked = 3, first = 4;  // units
  plain.messages.push_back({"user", {{std::string(question), asked}}, user});
  detail::conversation with_documents = plain;
  std::vector<detail::content_part>& content = plain.messages.back().content;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::string& passage = passages[i];
    if (blank(passage))
      throw argument_error(cat("[chat_template] passage ", i, " of ", count, " is empty; leave it out"));
    with_documents.documents.push_back({passage, first + i});
    content.insert(content.end() - 1, {passage + (passage.back() == '\n' ? "" : "\n\n"), first + i});
  }
  if (count > 0 && source_.mentions("documents")) {
    try {
      const jinja::text text = rendered(with_documents);
      if (const auto found = detail::passage_borders(text, first, count, asked))
        return detail::blocks_between(text, 0, *found);
    } catch (const error&) {  // documents of another form than ours: the passages go into the message
    }
  }
  const jinja::text text = rendered(plain);
  return detail::blocks_between(
      text, 0, detail::passage_borders(text, first, count, asked).value_or(std::vector<std::size_t>()));
}

inline chat_template chat_template::from_gguf(const checkpoint& file, std::string_view variant) {
  const std::string key = "tokenizer.chat_template";
  auto text = file.string(variant.empty() ? key : cat(key, '.', variant));
  if (!text && variant.empty()) text = file.string(key + ".default");
  if (!text)
    throw format_error(cat("[chat_template] ", file.path(), ": no ", key, variant.empty() ? "" : cat('.', variant),
                           ". The model isn't made for chat: give it plain text, or use an instruct model."));
  special_tokens tokens;
  for (const auto& [name, id_key] : {std::pair{"bos_token", "bos_token_id"},
                                     {"eos_token", "eos_token_id"},
                                     {"unk_token", "unknown_token_id"},
                                     {"pad_token", "padding_token_id"}}) {
    if (text->find(name) == std::string_view::npos) continue;
    const auto id = file.number<std::int64_t>(cat("tokenizer.ggml.", id_key));
    const auto texts = file.strings("tokenizer.ggml.tokens");
    if (id && *id >= 0 && *id < static_cast<std::int64_t>(texts.size()))
      tokens.emplace_back(name, std::string(texts[static_cast<std::size_t>(*id)]));
  }
  return from_source(*text, std::move(tokens), file.path());
}

}  // namespace blockattn::inline v0
