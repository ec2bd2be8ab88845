// How the vocabularies of GGUF files cut text into words, by the name that tokenizer.ggml.pre gives.
//
// The patterns restate what the published tokenizers of these models do (their tokenizer.json; llama.cpp's list of names),
// with these changes:
//   - \s is written out as White_Space (PCRE2's \s has U+180E besides);
//   - "each digit alone, then the GPT-2 pattern on what lies between" is one pattern: the space before a digit ends a
//     piece, so the look-ahead of the GPT-2 pattern, "white space not followed by a visible character", takes a digit for
//     the end of the text;
//   - loops that can't give anything back are possessive.
// Letters, numbers and marks are those of Unicode 16; other classes those of the version that PCRE2 was built with.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/text/pre_tokenizer.hpp"

namespace blockattn::inline v0 {

namespace detail {

// What Unicode 16 has assigned since version 14, which PCRE2 of Debian 12 knows: the published tokenizers run on it.
#define BLOCKATTN_LETTERS \
  "\\p{L}\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D65}\\x{10D6F}-\\x{10D85}" \
  "\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}" \
  "\\x{113D3}\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}" \
  "\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}" \
  "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
#define BLOCKATTN_NUMBERS \
  "\\p{N}\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}" \
  "\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}"
#define BLOCKATTN_MARKS \
  "\\p{M}\\x{897}\\x{CF3}\\x{ECE}\\x{10D69}-\\x{10D6D}\\x{10EFC}-\\x{10EFF}\\x{11241}\\x{113B8}-\\x{113C0}\\x{113C2}\\x{113C5}" \
  "\\x{113C7}-\\x{113CA}\\x{113CC}-\\x{113D0}\\x{113D2}\\x{113E1}-\\x{113E2}\\x{11F00}-\\x{11F01}\\x{11F03}\\x{11F34}-\\x{11F3A}" \
  "\\x{11F3E}-\\x{11F42}\\x{11F5A}\\x{13440}\\x{13447}-\\x{13455}\\x{1611E}-\\x{1612F}\\x{1E08F}\\x{1E4EC}-\\x{1E4EF}" \
  "\\x{1E5EE}-\\x{1E5EF}"
#define BLOCKATTN_WS "\\t-\\r\\x{85}\\p{Z}"  // inside of a class; \t-\r is 9..13
#define BLOCKATTN_SPACES "|[" BLOCKATTN_WS "]*[\\r\\n]+|[" BLOCKATTN_WS "]+(?![^" BLOCKATTN_WS "])|[" BLOCKATTN_WS "]++"
#define BLOCKATTN_GPT2_WORDS "'s|'t|'re|'ve|'m|'ll|'d| ?[" BLOCKATTN_LETTERS "]++| ?[" BLOCKATTN_NUMBERS "]++| ?[^" BLOCKATTN_WS BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]++"
#define BLOCKATTN_SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BLOCKATTN_GPT4_WORDS BLOCKATTN_SUFFIX "|[^\\r\\n" BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]?[" BLOCKATTN_LETTERS "]++|"
#define BLOCKATTN_GPT4_REST "| ?[^" BLOCKATTN_WS BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]++[\\r\\n]*+" BLOCKATTN_SPACES
#define BLOCKATTN_CAPITALS "[^\\r\\n" BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}" BLOCKATTN_MARKS "]"
#define BLOCKATTN_SMALL "[\\p{Ll}\\p{Lm}\\p{Lo}" BLOCKATTN_MARKS "]"
#define BLOCKATTN_CASE_REST "| ?[^" BLOCKATTN_WS BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]++[\\r\\n/]*+" BLOCKATTN_SPACES
#define BLOCKATTN_ASCII_MARKS "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]"

inline constexpr std::string_view gpt2_pattern =
    BLOCKATTN_GPT2_WORDS "|[" BLOCKATTN_WS "]+(?![^" BLOCKATTN_WS "])|[" BLOCKATTN_WS "]++";
inline constexpr std::string_view digits_gpt2_pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?[" BLOCKATTN_LETTERS "]++|[" BLOCKATTN_NUMBERS "]| ?[^" BLOCKATTN_WS
    BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]++"
    "|[" BLOCKATTN_WS "]+(?![^" BLOCKATTN_WS BLOCKATTN_NUMBERS "])|[" BLOCKATTN_WS "]++";
inline constexpr std::string_view llama3_pattern = BLOCKATTN_GPT4_WORDS "[" BLOCKATTN_NUMBERS "]{1,3}+" BLOCKATTN_GPT4_REST;
inline constexpr std::string_view qwen2_pattern = BLOCKATTN_GPT4_WORDS "[" BLOCKATTN_NUMBERS "]" BLOCKATTN_GPT4_REST;
inline constexpr std::string_view qwen35_pattern = BLOCKATTN_SUFFIX
    "|[^\\r\\n" BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]?[" BLOCKATTN_LETTERS BLOCKATTN_MARKS "]++|[" BLOCKATTN_NUMBERS "]| ?[^" BLOCKATTN_WS
    BLOCKATTN_LETTERS BLOCKATTN_MARKS BLOCKATTN_NUMBERS "]++[\\r\\n]*+" BLOCKATTN_SPACES;
inline constexpr std::string_view tekken_pattern = BLOCKATTN_CAPITALS "*" BLOCKATTN_SMALL "+|" BLOCKATTN_CAPITALS
    "+" BLOCKATTN_SMALL "*|[" BLOCKATTN_NUMBERS "]" BLOCKATTN_CASE_REST;
inline constexpr std::string_view gpt4o_pattern = BLOCKATTN_CAPITALS "*" BLOCKATTN_SMALL "+" BLOCKATTN_SUFFIX "?|" BLOCKATTN_CAPITALS
    "+" BLOCKATTN_SMALL "*" BLOCKATTN_SUFFIX "?|[" BLOCKATTN_NUMBERS "]{1,3}" BLOCKATTN_CASE_REST;
inline constexpr std::string_view marks_pattern = BLOCKATTN_ASCII_MARKS "[A-Za-z]+|[^\\r\\n" BLOCKATTN_LETTERS "\\p{P}\\p{S}]?[" BLOCKATTN_LETTERS BLOCKATTN_MARKS "]+| ?[\\p{P}\\p{S}]+[\\r\\n]*" BLOCKATTN_SPACES;
inline constexpr std::string_view seed_pattern = BLOCKATTN_GPT4_WORDS "[" BLOCKATTN_NUMBERS "]| ?[^" BLOCKATTN_WS BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]++" BLOCKATTN_SPACES;
inline constexpr std::string_view bailing_pattern = "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n" BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]?+[" BLOCKATTN_LETTERS "]+|[" BLOCKATTN_NUMBERS "]| ?[^" BLOCKATTN_WS
    BLOCKATTN_LETTERS BLOCKATTN_NUMBERS "]++[\\r\\n]*|[" BLOCKATTN_WS "]*[\\r\\n]|[" BLOCKATTN_WS "]+(?![^" BLOCKATTN_WS "])|[" BLOCKATTN_WS "]+";
inline constexpr std::string_view bloom_pattern = " ?[^(" BLOCKATTN_WS "|.,!?…。，、।۔،)]+";
inline constexpr std::string_view punctuation_pattern = "[\\p{P}$+<=>^~|`]+";  // ASCII's marks are all of it
inline constexpr std::string_view line_end_pattern = "[\\r\\n]";
inline constexpr std::string_view cjk_pattern = "[一-龥ࠀ-一가-\\x{D7FF}]+";
inline constexpr std::string_view kana_pattern = "[一-龥぀-ゟ゠-ヿ]+";
inline constexpr std::string_view european_pattern =  // Latin, Greek, Cyrillic, Armenian, Georgian and other letters with two cases
    "[" BLOCKATTN_WS "]?["
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}"
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}"
    "\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}"
    "\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}"
    "\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}"
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}"
    "\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}"
    "\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}"
    "\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}"
    "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}"
    "\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}"
    "\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
    "]+";

inline constexpr std::array<std::string_view, 6> deepseek_llm_patterns = {
    line_end_pattern, european_pattern, "[" BLOCKATTN_WS "]?[!-/:-~！-／：-～‘-‟\\x{3000}-。]+", "[" BLOCKATTN_WS "]+$", cjk_pattern, "[" BLOCKATTN_NUMBERS "]+"};
inline constexpr std::array<std::string_view, 5> deepseek_coder_patterns = {
    line_end_pattern, "[" BLOCKATTN_WS "]?[" BLOCKATTN_LETTERS "]+", "[" BLOCKATTN_WS "]?\\p{P}+", cjk_pattern, "[" BLOCKATTN_NUMBERS "]"};
inline constexpr std::array<std::string_view, 3> deepseek3_patterns = {"[" BLOCKATTN_NUMBERS "]{1,3}", kana_pattern, marks_pattern};
inline constexpr std::array<std::string_view, 3> falcon_patterns = {punctuation_pattern, gpt2_pattern, "[0-9][0-9][0-9]"};
inline constexpr std::array<std::string_view, 4> default_patterns = {punctuation_pattern, gpt2_pattern, "[" BLOCKATTN_NUMBERS "]+", "[0-9][0-9][0-9]"};
inline constexpr std::array<std::string_view, 2> viking_patterns = {bloom_pattern, "[" BLOCKATTN_NUMBERS "]"};
inline constexpr std::array<std::string_view, 2> superbpe_patterns = {"[" BLOCKATTN_NUMBERS "]+", "(?=(\\d{3})+(?!\\d))"};

#undef BLOCKATTN_LETTERS
#undef BLOCKATTN_NUMBERS
#undef BLOCKATTN_MARKS
#undef BLOCKATTN_WS
#undef BLOCKATTN_SPACES
#undef BLOCKATTN_GPT2_WORDS
#undef BLOCKATTN_SUFFIX
#undef BLOCKATTN_GPT4_WORDS
#undef BLOCKATTN_GPT4_REST
#undef BLOCKATTN_CAPITALS
#undef BLOCKATTN_SMALL
#undef BLOCKATTN_CASE_REST
#undef BLOCKATTN_ASCII_MARKS

}  // namespace detail

/// How a kind of vocabulary cuts text, under the name that GGUF files give it (tokenizer.ggml.pre).
struct pre_tokenizer_kind {
  std::string_view name;
  std::string_view pattern;            ///< the only rule; empty: see `patterns`
  const std::string_view* patterns = nullptr;  ///< rules, one after the other
  std::size_t count = 0;               ///< of `patterns`
  bool whole_words = false;            ///< a word that is a token is taken as that token, merges or not
  bool adds_bos = false;               ///< whether a prompt begins with BOS if the file doesn't say
  bool composes = false;               ///< whether text is brought into Unicode's form NFC first

  [[nodiscard]] std::vector<cut_rule> rules() const {
    std::vector<cut_rule> result;
    if (!pattern.empty()) result.push_back({detail::regex(pattern)});
    for (std::size_t i = 0; i < count; ++i) result.push_back({detail::regex(patterns[i])});
    return result;
  }
};

namespace detail {

[[nodiscard]] constexpr pre_tokenizer_kind several(std::string_view name, const std::string_view* patterns, std::size_t count) {
  return {name, {}, patterns, count};
}
[[nodiscard]] constexpr pre_tokenizer_kind whole(std::string_view name, std::string_view pattern, bool adds_bos) {
  return {name, pattern, nullptr, 0, true, adds_bos};
}
[[nodiscard]] constexpr pre_tokenizer_kind composing(std::string_view name, std::string_view pattern) {
  return {name, pattern, nullptr, 0, false, false, true};
}

}  // namespace detail

/// All kinds that are supported.
inline constexpr std::array pre_tokenizer_kinds = {
    pre_tokenizer_kind{"smollm", detail::digits_gpt2_pattern},
    pre_tokenizer_kind{"gpt-2", detail::gpt2_pattern},
    detail::whole("llama-bpe", detail::llama3_pattern, true),
    detail::whole("llama3", detail::llama3_pattern, true),
    detail::whole("llama-v3", detail::llama3_pattern, true),
    detail::whole("smollm3", detail::llama3_pattern, false),
    detail::whole("falcon3", detail::llama3_pattern, true),
    detail::whole("falcon-h1", detail::llama3_pattern, true),
    detail::whole("pixtral", detail::llama3_pattern, true),
    detail::whole("lfm2", detail::llama3_pattern, true),
    detail::composing("qwen2", detail::qwen2_pattern),
    pre_tokenizer_kind{"deepseek-r1-qwen", detail::qwen2_pattern},
    pre_tokenizer_kind{"qwen35", detail::qwen35_pattern},
    pre_tokenizer_kind{"stablelm2", detail::qwen2_pattern},
    pre_tokenizer_kind{"hunyuan", detail::qwen2_pattern},
    pre_tokenizer_kind{"megrez", detail::qwen2_pattern},
    pre_tokenizer_kind{"dbrx", detail::llama3_pattern},
    pre_tokenizer_kind{"smaug-bpe", detail::llama3_pattern},
    pre_tokenizer_kind{"chatglm-bpe", detail::llama3_pattern},
    detail::whole("glm4", detail::llama3_pattern, false),
    pre_tokenizer_kind{"starcoder", detail::digits_gpt2_pattern},
    pre_tokenizer_kind{"refact", detail::digits_gpt2_pattern},
    pre_tokenizer_kind{"command-r", detail::digits_gpt2_pattern},
    pre_tokenizer_kind{"codeshell", detail::digits_gpt2_pattern},
    pre_tokenizer_kind{"exaone", detail::digits_gpt2_pattern},
    pre_tokenizer_kind{"minerva-7b", detail::digits_gpt2_pattern},
    pre_tokenizer_kind{"phi-2", detail::gpt2_pattern},
    detail::composing("mpt", detail::gpt2_pattern),
    detail::composing("olmo", detail::gpt2_pattern),
    pre_tokenizer_kind{"jais", detail::gpt2_pattern},
    pre_tokenizer_kind{"roberta-bpe", detail::gpt2_pattern},
    pre_tokenizer_kind{"trillion", detail::gpt2_pattern},
    pre_tokenizer_kind{"granite-docling", detail::gpt2_pattern},
    detail::whole("tekken", detail::tekken_pattern, true),
    pre_tokenizer_kind{"gpt-4o", detail::gpt4o_pattern},
    pre_tokenizer_kind{"llama4", detail::gpt4o_pattern},
    pre_tokenizer_kind{"bloom", detail::bloom_pattern},
    pre_tokenizer_kind{"poro-chat", detail::bloom_pattern},
    pre_tokenizer_kind{"gpt3-finnish", detail::bloom_pattern},
    pre_tokenizer_kind{"seed-coder", detail::seed_pattern},
    pre_tokenizer_kind{"bailingmoe", detail::bailing_pattern},
    detail::several("viking", detail::viking_patterns.data(), detail::viking_patterns.size()),
    detail::several("superbpe", detail::superbpe_patterns.data(), detail::superbpe_patterns.size()),
    detail::several("deepseek-llm", detail::deepseek_llm_patterns.data(), detail::deepseek_llm_patterns.size()),
    detail::several("deepseek-coder", detail::deepseek_coder_patterns.data(), detail::deepseek_coder_patterns.size()),
    detail::several("deepseek-v3", detail::deepseek3_patterns.data(), detail::deepseek3_patterns.size()),
    detail::several("hunyuan-dense", detail::deepseek3_patterns.data(), detail::deepseek3_patterns.size()),
    detail::several("falcon", detail::falcon_patterns.data(), detail::falcon_patterns.size()),
    detail::several("default", detail::default_patterns.data(), detail::default_patterns.size()),
};

/// The kind of that name, or nullptr.
[[nodiscard]] inline const pre_tokenizer_kind* find_pre_tokenizer(std::string_view name) {
  const auto found = std::find_if(pre_tokenizer_kinds.begin(), pre_tokenizer_kinds.end(),
                                  [&](const pre_tokenizer_kind& kind) { return kind.name == name; });
  return found == pre_tokenizer_kinds.end() ? nullptr : found;
}

}  // namespace blockattn::inline v0
