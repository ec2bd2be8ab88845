// 20,000 random strings a vocabulary against Hugging Face's `tokenizers` (scripts/golden/make_tokenizer_hashes.py), and decoding them.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/text/stream_decoder.hpp"
#include "blockattn/text/tokenizer.hpp"
#include "support/data_path.hpp"
#include "support/model_path.hpp"

using blockattn::token_id;

namespace {

/// The script's generator, number by number.
class generator {
 public:
  std::string next() {
    std::vector<std::uint64_t> kinds(1 + below(6));
    for (auto& kind : kinds) kind = below(ranges.size() + lists.size() + 1);
    std::string out;
    for (std::uint64_t left = 1 + below(40); left > 0; --left) {
      const std::string one = piece(kinds[below(kinds.size())]);
      constexpr std::uint64_t repeats[] = {1, 1, 1, 1, 2, 5};
      std::uint64_t times = repeats[below(6)];
      if (below(64) == 0) times = 20 + below(200);
      while (times-- > 0) out += one;
    }
    return out;
  }

 private:
  std::uint64_t below(std::uint64_t end) {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return (z ^ (z >> 31)) % end;
  }

  std::string piece(std::uint64_t kind) {
    if (kind < ranges.size()) {
      const auto code = static_cast<char32_t>(ranges[kind][0] + below(ranges[kind][1] - ranges[kind][0]));
      std::string out;
      blockattn::detail::append_character(code >= 0xD800 && code < 0xE000 ? U'?' : code, out);
      return out;
    }
    kind -= ranges.size();
    if (kind < lists.size()) return lists[kind][below(lists[kind].size())];
    return std::string(1, static_cast<char>(0x80 + below(0x80)));
  }

  const std::vector<std::array<std::uint64_t, 2>> ranges = {
      {0x20, 0x7F},     {0x20, 0x7F},     {0x00, 0x20},     {0x80, 0x250},    {0x250, 0x370},     {0x370, 0x700},     {0x900, 0xE00},    {0x1E00, 0x2000},
      {0x2000, 0x2800}, {0x3000, 0xA000}, {0xAC00, 0xD7A4}, {0xF900, 0x10000}, {0x1F300, 0x1FB00}, {0x10000, 0x40000}, {0x40000, 0x110000}};
  const std::vector<std::vector<std::string>> lists = {
      {" ", "\n", "\t", "\r", "  ", "\u00a0", "\u3000", "\u2028", "\xC2\x85", "\u180e", "\r\n"},
      {"0", "1", "2", "3", "9", "42", "1234567", "²", "½", "Ⅷ", "٣", "௧"},
      {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "'", "’s", "'ſ"},
      {" the", " and", "ing", "tion", " of", "Hello", " world", "import", " {\n", "();", "    ", "\n\n", "aaaa", "====", "...", "\u2581", "\u2581\u2581"},
      {"e\u0301", "\u0301", "\u0323\u0307", "\u200d", "가", "ᄀ", "ᅡ", "ᆨ", "\u0f73", "ﬁ", "Å", "\u212b", "Ω", "\u2126", "豈", "\u0338", "क़"},
      {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<bos>", "<eos>", "<end_of_turn>", "<start_of_turn>", "<table>", "</s>", "<unk>", "<", "|>", "<0x41>", "<|", "<unused7>"}};
  std::uint64_t state_ = 2025;
};

void add(XXH3_state_t& state, const std::vector<token_id>& ids) {
  const auto count = static_cast<std::uint32_t>(ids.size());
  XXH3_64bits_update(&state, &count, sizeof(count));
  XXH3_64bits_update(&state, ids.data(), ids.size() * sizeof(token_id));
}

/// What encoding and decoding does to a text, if the vocabulary has tokens for all of it.
enum class law { none, same, composed, spaces };

void check_decoding(const blockattn::tokenizer& t, const std::string& text, const std::vector<token_id>& ids, law l) {
  const std::string decoded = t.decode(ids, true);
  blockattn::stream_decoder stream(t);
  std::string streamed;
  for (const token_id id : ids) streamed += stream.push(id);
  REQUIRE(streamed + stream.finish() == blockattn::to_valid_utf8(t.decode(ids)).text);
  const std::string valid = blockattn::to_valid_utf8(text).text;
  if (l == law::same) REQUIRE(decoded == valid);
  if (l == law::spaces) REQUIRE(decoded == blockattn::detail::replace_all(valid, "\u2581", " "));
  const bool marks = std::any_of(ids.begin(), ids.end(), [&](token_id id) { return t.is_control(id); });  // text is composed between these
  if (l == law::composed && !marks) REQUIRE(decoded == blockattn::detail::to_form(valid, blockattn::unicode_form::nfc));
}

void check(const std::string& name, const std::optional<std::filesystem::path>& path, law l) {
  if (!path) {
    WARN(name << " is left out: scripts/test --models all fetches it");
    return;
  }
  std::ifstream in(blockattn_test::golden_path("tokenizer_hashes.json"));
  const auto expected = nlohmann::json::parse(in)[name].get<std::vector<std::string>>();
  REQUIRE(expected.size() == 200);
  const auto t = blockattn::tokenizer::from_gguf(blockattn::gguf_file(*path));
  generator texts;
  for (std::size_t chunk = 0; chunk < expected.size(); ++chunk) {
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset(&state);
    for (int i = 0; i < 100; ++i) {
      const std::string text = texts.next();
      const std::vector<token_id> ids = t.encode(text);
      add(state, ids);
      if (i % 4 == 0) check_decoding(t, text, ids, l);
    }
    char hash[17];
    std::snprintf(hash, sizeof(hash), "%016llx", static_cast<unsigned long long>(XXH3_64bits_digest(&state)));
    INFO(name << ", chunk " << chunk);
    CHECK(std::string(hash) == expected[chunk]);
  }
}

}  // namespace

TEST_CASE("20,000 random strings: SmolLM2", "[text][tokenizer][model]") { check("smollm2", blockattn_test::model_path(), law::none); }
TEST_CASE("20,000 random strings: Qwen2.5", "[text][tokenizer][model]") { check("qwen2.5", blockattn_test::qwen_path(), law::composed); }
TEST_CASE("20,000 random strings: Gemma 3", "[text][tokenizer][model]") { check("gemma3", blockattn_test::gemma_path(), law::spaces); }
