// A compiled regular expression over UTF-8: PCRE2 in UTF and UCP mode, as machine code where the platform allows it.
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

namespace blockattn::inline v0::detail {

/// Where a pattern comes from decides how much work one match may be.
enum class regex_trust {
  own,   ///< of this library: linear in the text, no limit but the memory's
  given  ///< of a file: bounded, so that a hostile one fails instead of running for ever
};

/// What a search needs besides the pattern. One object a thread, for all patterns.
class regex_scratch {
 public:
  regex_scratch() : data_(pcre2_match_data_create_8(1, nullptr)), context_(pcre2_match_context_create_8(nullptr)) {
    if (data_ == nullptr || context_ == nullptr) {
      release();
      throw std::bad_alloc();
    }
  }
  regex_scratch(const regex_scratch&) = delete;
  regex_scratch& operator=(const regex_scratch&) = delete;
  ~regex_scratch() { release(); }

 private:
  friend class regex;
  void release() {
    pcre2_match_data_free_8(data_);
    pcre2_match_context_free_8(context_);
  }

  pcre2_match_data_8* data_;
  pcre2_match_context_8* context_;
};

/// Immutable: any number of threads may search with one object; a copy shares the pattern.
class regex {
 public:
  struct range {
    std::size_t begin = 0, end = 0;
    bool found = false;
  };

  /// Throws argument_error if PCRE2 rejects the pattern. `lines`: ^ and $ match at line ends, too.
  explicit regex(std::string_view pattern, regex_trust trust = regex_trust::own, bool lines = false) : trust_(trust) {
    constexpr std::size_t longest = 1U << 16;
    if (pattern.size() > longest)
      throw argument_error(cat("[regex] a pattern of ", pattern.size(), " bytes; allowed: up to ", longest));
    int code = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code_8* compiled =
        pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern.data()), pattern.size(),
                        PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | (lines ? PCRE2_MULTILINE : 0U), &code, &offset, nullptr);
    if (compiled == nullptr)
      throw argument_error(cat("[regex] '", pattern, "' isn't a pattern: ", reason(code), " at ", offset));
    code_ = {compiled, [](pcre2_code_8* p) { pcre2_code_free_8(p); }};
    (void)pcre2_jit_compile_8(compiled, PCRE2_JIT_COMPLETE);  // where it isn't available, the interpreter does the same, slower
  }

  /// The first match at or after `at`. `text` must be valid UTF-8, and a character must start at `at`. Throws error, with
  /// the position, if PCRE2 gives up.
  [[nodiscard]] range search(std::string_view text, std::size_t at, regex_scratch& scratch) const {
    limit(text.size(), scratch);
    const auto subject = reinterpret_cast<PCRE2_SPTR8>(text.data());
    int code = pcre2_match_8(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, scratch.data_, scratch.context_);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT)
      code = pcre2_match_8(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch.data_,
                           scratch.context_);
    if (code == PCRE2_ERROR_NOMATCH) return {};
    if (code < 0)
      throw error(cat("[regex] PCRE2 gave up at byte ", at, " of ", text.size(), ": ", reason(code),
                      trust_ == regex_trust::given ? ". The tokenizer's pattern takes too long on this text; give it in smaller parts, or mend the pattern."
                                                   : ". Give the text in smaller parts."));
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer_8(scratch.data_);
    return {found[0], found[1], true};
  }

 private:
  /// A run of a million spaces is matched in as many steps, so limits grow with the text.
  void limit(std::size_t size, regex_scratch& scratch) const {
    const bool bounded = trust_ == regex_trust::given && size < (std::size_t{1} << 27);
    const auto steps = bounded ? static_cast<std::uint32_t>(1'000'000 + 16 * size) : UINT32_MAX;
    pcre2_set_match_limit_8(scratch.context_, steps);
    pcre2_set_depth_limit_8(scratch.context_, steps);
    pcre2_set_heap_limit_8(scratch.context_, trust_ == regex_trust::given ? 1U << 20 : UINT32_MAX);  // KiB
  }

  [[nodiscard]] static std::string reason(int code) {
    std::array<PCRE2_UCHAR8, 160> text{};
    return pcre2_get_error_message_8(code, text.data(), text.size()) < 0 ? cat("error ", code)
                                                                         : reinterpret_cast<const char*>(text.data());
  }

  std::shared_ptr<const pcre2_code_8> code_;
  regex_trust trust_;
};

}  // namespace blockattn::inline v0::detail
