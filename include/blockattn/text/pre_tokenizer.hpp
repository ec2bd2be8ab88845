// Cuts text into words before byte-pair merging: no token crosses a cut.
//
// A pattern of PCRE2 (UTF and UCP mode, compiled to machine code where the platform allows it) matches one word after
// another; text between two matches is a word of its own. The patterns restate what the published tokenizers of these
// models do, with two changes:
//   - \s is written out as White_Space (PCRE2's \s has U+180E besides);
//   - "each digit alone, then the GPT-2 pattern on what lies between" is one pattern: the space before a digit ends a
//   piece, so the
//     look-ahead of the GPT-2 pattern, "white space not followed by a visible character", takes a digit for the end of
//     the text.
// Classes of characters are those of the Unicode version that PCRE2 was built with.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

namespace detail {

#define BLOCKATTN_WS "\\t-\\r\\x{85}\\p{Z}"  // inside of a class; \t-\r is 9..13
#define BLOCKATTN_GPT2_WORDS "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}++| ?\\p{N}++| ?[^" BLOCKATTN_WS "\\p{L}\\p{N}]++"
#define BLOCKATTN_GPT4_WORDS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}++|"
#define BLOCKATTN_GPT4_REST                                                                                           \
  "| ?[^" BLOCKATTN_WS "\\p{L}\\p{N}]++[\\r\\n]*+|[" BLOCKATTN_WS "]*[\\r\\n]+|[" BLOCKATTN_WS "]+(?![^" BLOCKATTN_WS \
  "])|[" BLOCKATTN_WS "]++"

inline constexpr std::string_view gpt2_pattern =
    BLOCKATTN_GPT2_WORDS "|[" BLOCKATTN_WS "]+(?![^" BLOCKATTN_WS "])|[" BLOCKATTN_WS "]++";
inline constexpr std::string_view digits_gpt2_pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}++|\\p{N}| ?[^" BLOCKATTN_WS
    "\\p{L}\\p{N}]++"
    "|[" BLOCKATTN_WS "]+(?![^" BLOCKATTN_WS "\\p{N}])|[" BLOCKATTN_WS "]++";
inline constexpr std::string_view llama3_pattern = BLOCKATTN_GPT4_WORDS "\\p{N}{1,3}+" BLOCKATTN_GPT4_REST;
inline constexpr std::string_view qwen2_pattern = BLOCKATTN_GPT4_WORDS "\\p{N}" BLOCKATTN_GPT4_REST;

#undef BLOCKATTN_WS
#undef BLOCKATTN_GPT2_WORDS
#undef BLOCKATTN_GPT4_WORDS
#undef BLOCKATTN_GPT4_REST

}  // namespace detail

/// How a kind of vocabulary cuts text, under the name that GGUF files give it (tokenizer.ggml.pre).
struct pre_tokenizer_kind {
  std::string_view name;
  std::string_view pattern;
  bool whole_words = false;  ///< a word that is a token is taken as that token, merges or not
  bool adds_bos = false;     ///< whether a prompt begins with BOS if the file doesn't say
};

/// All kinds that are supported; each was compared with the tokenizer that it restates.
inline constexpr std::array<pre_tokenizer_kind, 7> pre_tokenizer_kinds = {{
    {"smollm", detail::digits_gpt2_pattern},
    {"gpt-2", detail::gpt2_pattern},
    {"llama-bpe", detail::llama3_pattern, true, true},
    {"qwen2", detail::qwen2_pattern},
    {"starcoder", detail::digits_gpt2_pattern},
    {"refact", detail::digits_gpt2_pattern},
    {"command-r", detail::digits_gpt2_pattern},
}};

/// The kind of that name, or nullptr.
[[nodiscard]] inline const pre_tokenizer_kind* find_pre_tokenizer(std::string_view name) {
  for (const pre_tokenizer_kind& kind : pre_tokenizer_kinds)
    if (kind.name == name) return &kind;
  return nullptr;
}

/// A compiled pattern. Immutable: any number of threads may split with one object; a copy shares the pattern.
class pre_tokenizer {
 public:
  /// Throws argument_error if PCRE2 rejects the pattern.
  explicit pre_tokenizer(std::string_view pattern) {
    int code = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code_8* compiled = pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern.data()), pattern.size(),
                                             PCRE2_UTF | PCRE2_UCP, &code, &offset, nullptr);
    if (compiled == nullptr)
      throw argument_error(cat("[pre_tokenizer] '", pattern, "' isn't a pattern: ", reason(code), " at ", offset));
    pattern_ = {compiled, [](pcre2_code_8* p) { pcre2_code_free_8(p); }};
    (void)pcre2_jit_compile_8(compiled,
                              PCRE2_JIT_COMPLETE);  // where it isn't available, the interpreter does the same, slower
  }

  /// Calls take(std::string_view) for each word of `text`, in order; together they are the text, none is empty.
  /// `text` must be valid UTF-8. Throws error, with the position, if PCRE2 gives up (out of memory).
  template <class Take>
  void split(std::string_view text, Take&& take) const {
    const auto state = make_match_state();
    for (std::size_t at = 0; at < text.size();) {
      const auto [begin, end] = match(text, at, *state);
      if (begin > at) take(text.substr(at, begin - at));
      if (end > begin) take(text.substr(begin, end - begin));
      at = end;
    }
  }

 private:
  struct match_state {
    pcre2_match_data_8* data = nullptr;
    pcre2_match_context_8* context = nullptr;
    match_state() = default;
    match_state(const match_state&) = delete;
    match_state& operator=(const match_state&) = delete;
    ~match_state() {
      pcre2_match_data_free_8(data);
      pcre2_match_context_free_8(context);
    }
  };
  struct word {
    std::size_t begin = 0, end = 0;
  };

  [[nodiscard]] static std::unique_ptr<match_state> make_match_state() {
    auto state = std::make_unique<match_state>();
    state->data = pcre2_match_data_create_8(1, nullptr);
    state->context = pcre2_match_context_create_8(nullptr);
    if (state->data == nullptr || state->context == nullptr) throw std::bad_alloc();
    // A run of a million spaces is matched in as many steps: no limit but the memory's.
    pcre2_set_match_limit_8(state->context, UINT32_MAX);
    pcre2_set_depth_limit_8(state->context, UINT32_MAX);
    pcre2_set_heap_limit_8(state->context, UINT32_MAX);
    return state;
  }

  /// The next word at or after `at`; [size, size) if there is none.
  [[nodiscard]] word match(std::string_view text, std::size_t at, match_state& state) const {
    const auto subject = reinterpret_cast<PCRE2_SPTR8>(text.data());
    int code = pcre2_match_8(pattern_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, state.data, state.context);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT)
      code = pcre2_match_8(pattern_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state.data,
                           state.context);
    if (code == PCRE2_ERROR_NOMATCH) return {text.size(), text.size()};
    if (code < 0)
      throw error(cat("[pre_tokenizer] PCRE2 gave up at byte ", at, " of ", text.size(), ": ", reason(code),
                      ". Give the text in smaller parts."));
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer_8(state.data);
    if (range[1] > range[0]) return {range[0], range[1]};
    std::size_t next = range[1] + 1;  // an empty match would stand still: take the next character
    while (next < text.size() && (static_cast<unsigned char>(text[next]) & 0xC0U) == 0x80U) ++next;
    return {range[0], next < text.size() ? next : text.size()};
  }

  [[nodiscard]] static std::string reason(int code) {
    std::array<PCRE2_UCHAR8, 160> text{};
    return pcre2_get_error_message_8(code, text.data(), text.size()) < 0 ? cat("error ", code)
                                                                         : reinterpret_cast<const char*>(text.data());
  }

  std::shared_ptr<const pcre2_code_8> pattern_;
};

}  // namespace blockattn::inline v0
