#include <blockattn/io/gguf.hpp>
#include <blockattn/text/segmenter.hpp>
#include <blockattn/text/tokenizer.hpp>
#include <blockattn/version.hpp>
#include <iostream>

int main() {
  try {
    const auto tokenizer = blockattn::tokenizer::from_gguf(blockattn::gguf_file("/nowhere/model.gguf"));
    return static_cast<int>(tokenizer.vocab_size());
  } catch (const blockattn::io_error&) {
    std::cout << "blockattn " << blockattn::version_string << '\n';
  }
}
