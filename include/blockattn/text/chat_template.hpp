// Chat templates: messages to the text that a model was trained on, cut into blocks.
//
// A file carries its template as Jinja text (tokenizer.chat_template). That text isn't run: it is read, brought into
// one form and compared with the forms of ChatML that are known. What may differ between two files is taken from the
// text: the system message that the template puts first if the conversation has none. A template of any other form is
// refused.
//
// ChatML:  <|im_start|>ROLE\nCONTENT<|im_end|>\n  for each message, then  <|im_start|>assistant\n  to open an answer.
//
// The control tokens are markup; roles, contents and passages are content, in which control tokens are ordinary text.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/gguf.hpp"
#include "blockattn/text/jinja_shape.hpp"
#include "blockattn/text/prompt.hpp"

namespace blockattn::inline v0 {

/// One message of a conversation; roles are "system", "user", "assistant".
struct chat_message {
  std::string role, content;
};

/// Makes blocks of messages. Immutable.
class chat_template {
 public:
  /// ChatML. With `default_system`, a conversation that doesn't start with a system message gets this one.
  explicit chat_template(std::optional<std::string> default_system = std::nullopt)
      : default_system_(std::move(default_system)) {}

  /// The template of a model file. Throws format_error if it has none or one of another form.
  [[nodiscard]] static chat_template from_gguf(const gguf_file& file) {
    const auto text = file.string("tokenizer.chat_template");
    if (!text)
      throw format_error(cat("[chat_template] ", file.path(),
                             ": no tokenizer.chat_template. The model isn't made for chat: give it plain text, or use "
                             "an instruct model."));
    return parse(*text, file.path());
  }

  /// The template of a Jinja text; `name` is what an error calls it. Throws format_error for any form but the known
  /// ones.
  [[nodiscard]] static chat_template parse(std::string_view jinja, std::string_view name = "the template");

  /// The system message that a conversation without one gets.
  [[nodiscard]] const std::optional<std::string>& default_system() const { return default_system_; }

  /// A block a message, a default system message first if the template adds one; the last block also opens the answer
  /// if asked for. The blocks' text is what the file's own template gives. Throws argument_error if there is no
  /// message.
  [[nodiscard]] std::vector<text_block> messages(const std::vector<chat_message>& messages,
                                                 bool open_answer = true) const {
    if (messages.empty()) throw argument_error("[chat_template] no messages; give at least one");
    std::vector<text_block> blocks;
    if (default_system_ && messages.front().role != "system")
      blocks.push_back(message_block("system", *default_system_));
    for (const chat_message& message : messages) blocks.push_back(message_block(message.role, message.content));
    if (open_answer) blocks.back().pieces.push_back({answer_start, true});
    return blocks;
  }

  /// A question over passages. Block 0: the system message and the opening of the user's; blocks 1..n: the passages,
  /// best last; the last block: the question, the end of the turn, the opening of the answer. The text is that of
  /// messages() with one user message of all passages and the question. A passage that doesn't end with a line feed
  /// gets "\n\n", so that it doesn't run into the next one: its block is the same in any prompt. Without a system
  /// message (""), the template's own is used, if it has one. Throws argument_error if the question or a passage is
  /// blank.
  [[nodiscard]] std::vector<text_block> rag(std::string_view system, const std::vector<std::string>& passages,
                                            std::string_view question) const {
    if (blank(question)) throw argument_error("[chat_template] the question is empty; ask something");
    std::vector<text_block> blocks(1);
    if (!system.empty() || default_system_)
      blocks[0] = message_block("system", system.empty() ? *default_system_ : std::string(system));
    append(blocks[0], turn_start, "user\n");
    for (std::size_t i = 0; i < passages.size(); ++i) {
      if (blank(passages[i]))
        throw argument_error(cat("[chat_template] passage ", i, " of ", passages.size(), " is empty; leave it out"));
      blocks.push_back(text_block::content(passages[i] + (passages[i].back() == '\n' ? "" : "\n\n")));
    }
    blocks.push_back(text_block::content(std::string(question)));
    blocks.back().pieces.push_back({std::string(turn_end) + answer_start, true});
    return blocks;
  }

  /// The user's next turn, after an answer whose end isn't in the session yet: closes the answer, asks, opens the next
  /// one. Throws argument_error if the text is blank.
  [[nodiscard]] text_block next_turn(std::string_view user_text) const {
    if (blank(user_text)) throw argument_error("[chat_template] the user's text is empty; ask something");
    text_block block = text_block::raw(std::string(turn_end) + turn_start);
    block.pieces.push_back({"user\n" + std::string(user_text), false});
    block.pieces.push_back({std::string(turn_end) + answer_start, true});
    return block;
  }

 private:
  static constexpr const char* turn_start = "<|im_start|>";
  static constexpr const char* turn_end = "<|im_end|>\n";
  static constexpr const char* answer_start = "<|im_start|>assistant\n";

  static void append(text_block& block, std::string markup, std::string content) {
    block.pieces.push_back({std::move(markup), true});
    block.pieces.push_back({std::move(content), false});
  }

  [[nodiscard]] static text_block message_block(const std::string& role, const std::string& content) {
    text_block block;
    append(block, turn_start, role + "\n" + content);
    block.pieces.push_back({turn_end, true});
    return block;
  }

  [[nodiscard]] static bool blank(std::string_view text) {
    return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
  }

  std::optional<std::string> default_system_;
};

inline chat_template chat_template::parse(std::string_view jinja, std::string_view name) {
  // The known forms, as detail::jinja_shape() writes them. {}: where the default system message stands.
  static constexpr std::string_view prologue =
      "{%ifnotadd_generation_promptisdefined%}{%setadd_generation_prompt=false%}{%endif%}";
  static constexpr std::string_view loop = "{%formessageinmessages%}";
  static constexpr std::string_view body =
      "{{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}}{%endfor%}"
      "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\n'}}{%endif%}";
  static constexpr std::string_view system_end = "<|im_end|>\n'}}{%endif%}";
  static const std::string in_loop =
      cat(loop, "{%ifloop.firstandmessages[0]['role']!='system'%}{{'<|im_start|>system\n");
  static const std::string before_loop = "{%ifmessages[0]['role']!='system'%}{{'<|im_start|>system\n";

  const std::string shape = detail::jinja_shape(jinja);
  std::string_view rest = shape;
  if (rest.starts_with(prologue)) rest.remove_prefix(prologue.size());
  if (rest == cat(loop, body)) return chat_template();
  const auto between = [rest](std::string_view begin, std::string_view end) -> std::optional<std::string> {
    if (rest.size() < begin.size() + end.size() || !rest.starts_with(begin) || !rest.ends_with(end))
      return std::nullopt;
    return detail::jinja_literal_text(rest.substr(begin.size(), rest.size() - begin.size() - end.size()));
  };
  if (auto system = between(in_loop, cat(system_end, body))) return chat_template(std::move(system));
  if (auto system = between(before_loop, cat(system_end, loop, body))) return chat_template(std::move(system));
  throw format_error(
      cat("[chat_template] ", name, ": its chat template is of an unsupported form; supported: ChatML",
          " (<|im_start|>role, content, <|im_end|>), plain or with a default system message. It begins: ",
          jinja.substr(0, 80)));
}

}  // namespace blockattn::inline v0
