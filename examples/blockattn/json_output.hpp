// Results as JSON, one line each. The keys are documented in docs/command.md; a key is never renamed or given another
// meaning.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "blockattn/io/checkpoint.hpp"

namespace blockattn::inline v0 {
struct generation_result;
}

namespace blockattn_command {

/// Keys in the order in which they were added.
using json = nlohmann::ordered_json;

/// text, token_ids, prompt_tokens, blocks, ttft_ms, prefill_ms, tokens_per_second, flops, finish_reason.
[[nodiscard]] json to_json(const blockattn::generation_result& result);

/// file, format, version (if the format has one), size_bytes, parameters, metadata, types, tensors.
[[nodiscard]] json to_json(const blockattn::checkpoint& file);

/// A metadata value: a number, Boolean or string as such; an array as {"element", "count", "first"}, `first` being up
/// to `shown` of its elements.
[[nodiscard]] json metadata_json(const blockattn::checkpoint& file, std::string_view key, std::size_t shown);

/// {"error": {"where", "message"}}: `message` as "[where] ...", or without "where" if it doesn't begin so.
[[nodiscard]] json error_json(std::string_view message);

/// `value` on one line of standard output, flushed. Invalid UTF-8 becomes U+FFFD.
void print_json(const json& value);

}  // namespace blockattn_command
