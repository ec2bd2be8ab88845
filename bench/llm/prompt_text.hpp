// Passages and a question of an exact number of tokens, the same in every run.
#pragma once

#include <string>
#include <vector>

#include "blockattn/text/prompt.hpp"
#include "blockattn/text/tokenizer.hpp"

namespace blockattn_bench {

/// Text of exactly `tokens` tokens; texts of different `seed`s differ. Throws blockattn::error if the tokenizer can't
/// be brought to that number.
[[nodiscard]] std::string text_of(const blockattn::tokenizer& tokenizer, int tokens, unsigned seed);

/// Blocks of `length` tokens in all: passages of `passage` tokens (one shorter or longer by less than a passage takes
/// the rest), and a final block of `query` tokens.
[[nodiscard]] std::vector<blockattn::text_block> make_prompt(const blockattn::tokenizer& tokenizer, int length,
                                                             int query, int passage);

}  // namespace blockattn_bench
