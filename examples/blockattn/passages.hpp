// From a document to passages: what is found, cached and given to the model as one block.
//
// A passage never crosses a Markdown heading, has at most a given number of tokens, and carries the title of its
// document and section, so that it can be understood alone: block-attention lets a passage see nothing but itself.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace blockattn_command {

/// One stretch of a document. `title` is "Document" or "Document: Section".
struct passage {
  std::string title;
  std::string body;
  friend bool operator==(const passage&, const passage&) = default;
};

/// A document's title and its sections, headings taken out.
struct document_outline {
  struct section {
    std::string heading;  ///< empty before the first heading
    std::string body;
  };
  std::string title;
  std::vector<section> sections;
};

/// Splits text into pieces that fit; segmenter's paragraph_blocks() bound to a tokenizer and a limit, or a stand-in in
/// tests.
using body_splitter = std::function<std::vector<std::string>(std::string_view body)>;

/// Markdown: ATX headings (#...) start sections, those in fenced code don't; the first level-1 heading is the title.
/// Plain text: a short first line followed by an empty one is the title. Otherwise the title is `fallback_title`.
[[nodiscard]] document_outline outline(std::string_view text, bool markdown, std::string_view fallback_title);

/// All passages of a document; none if it has no text. `file` decides by its extension what is Markdown and gives the
/// fallback title.
[[nodiscard]] std::vector<passage> split_document(std::string_view text, const std::filesystem::path& file,
                                                  const body_splitter& split);

/// A passage as the model reads it: the title, a line feed, the body.
[[nodiscard]] std::string passage_text(const passage& p);

}  // namespace blockattn_command
