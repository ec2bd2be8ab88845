// Any tokenizer.json, or any vocabulary in a GGUF file, and any text: loading works or throws blockattn::error; what is loaded encodes
// and decodes, or throws that, and gives ids of the vocabulary only.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/io/gguf.hpp"
#include "blockattn/text/stream_decoder.hpp"
#include "blockattn/text/tokenizer.hpp"
#include "support/exact_memory.hpp"
#include "support/tiny_vocabulary.hpp"

namespace {

void use(const blockattn::tokenizer& t, std::string_view text) {
  for (const bool markup : {true, false}) {
    const auto ids = t.encode(text, markup);
    for (const blockattn::token_id id : ids)
      if (id < 0 || id >= t.vocab_size()) std::abort();
    (void)t.decode(ids, true);
    blockattn::stream_decoder stream(t);
    std::string all;
    for (const blockattn::token_id id : ids) all += stream.push(id);
    if (!blockattn::is_valid_utf8(all + stream.finish())) std::abort();
  }
}

std::string_view seed(unsigned number) {
  static const std::string json =
      R"({"added_tokens":[{"id":5,"content":"<s>","special":true,"lstrip":true},{"id":6,"content":"b c","normalized":true,"rstrip":true,"single_word":true}],)"
      R"("normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},)"
      R"("pre_tokenizer":{"type":"Metaspace","prepend_scheme":"first"},"decoder":{"type":"Metaspace"},)"
      R"("model":{"type":"BPE","byte_fallback":true,"unk_token":"▁","vocab":{"a":0,"b":1,"c":2,"ab":3,"▁":4,"<0x41>":7},"merges":["a b"]}}|text ab)";
  static const std::string pattern =
      R"({"normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|\\w+"},"behavior":"MergedWithNext"},)"
      R"("decoder":{"type":"Fuse"},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",-1],["ab",-1.5],["b",-2]]}}|Ab ab  x)";
  static const std::string gguf = blockattn_test::tiny_vocabulary_file().bytes();
  return number % 3 == 0 ? json : number % 3 == 1 ? pattern : gguf;
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned number);
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

/// Starts from valid files, which random bytes would never become.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned number) {
  if (size < 8 || number % 4096 == 0) {
    const std::string_view bytes = seed(number / 7);
    if (bytes.size() > most) return size;
    bytes.copy(reinterpret_cast<char*>(data), bytes.size());
    size = bytes.size();
  }
  return LLVMFuzzerMutate(data, size, most);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  try {
    if (all.starts_with("GGUF")) {
      const blockattn_test::exact_memory memory(all);
      use(blockattn::tokenizer::from_gguf(blockattn::gguf_file::from_memory(memory.span(), "fuzzed.gguf")), "the <|im_end|>  and\xFF 12 \xE4\xBD\xA0");
    } else {
      const std::size_t bar = all.rfind('|');
      use(blockattn::tokenizer::from_json({all.substr(0, bar), "", "", "fuzzed.json"}), bar == std::string_view::npos ? "ab <s> b c" : all.substr(bar + 1));
    }
  } catch (const blockattn::error&) {
  }
  return 0;
}
