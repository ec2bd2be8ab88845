// Low-rank adapters (LoRA, arXiv 2106.09685) in GGUF files, as llama.cpp writes and reads them.
//
// Metadata: general.type "adapter", adapter.type "lora", general.architecture of the base model, adapter.lora.alpha
// (float). For a weight "blk.0.attn_q.weight" [N, K] there are "….lora_a" [r, K] and "….lora_b" [N, r]; the change of
// the weight is alpha / r · B · A (just B · A if alpha is 0).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "blockattn/io/gguf.hpp"

namespace blockattn::inline v0 {

/// One adapter file, mapped. Immutable.
class lora_adapter {
 public:
  struct matrices {
    weight_view a;  ///< [r, K]
    weight_view b;  ///< [N, r]
  };

  /// Throws io_error, and format_error for a file that is no LoRA adapter or whose matrices don't pair up.
  explicit lora_adapter(const std::filesystem::path& path) : file_(path) {
    require("general.type", "adapter");
    require("adapter.type", "lora");
    alpha_ = file_.number<float>("adapter.lora.alpha").value_or(0);
    for (const gguf_tensor& t : file_.tensors()) add(t);
    for (const auto& [name, m] : matrices_)
      if (!m.a || !m.b || m.a.rows != m.b.columns)
        throw format_error(cat("[lora] ", file_.path(), ": '", name, "' needs lora_a [r, K] and lora_b [N, r]; got ",
                               shape(m.a), " and ", shape(m.b), ". The adapter is incomplete; export it again."));
    if (matrices_.empty())
      throw format_error(cat("[lora] ", file_.path(), ": the adapter has no matrices. Export it again."));
  }

  [[nodiscard]] const gguf_file& file() const { return file_; }
  [[nodiscard]] std::string_view architecture() const { return file_.string("general.architecture").value_or(""); }
  /// Name of the changed weight → its matrices.
  [[nodiscard]] const std::map<std::string, matrices, std::less<>>& changes() const { return matrices_; }
  /// What B · A of a change of rank r is multiplied by.
  [[nodiscard]] float scale_of(const matrices& m) const {
    return alpha_ != 0 ? alpha_ / static_cast<float>(m.a.rows) : 1.0F;
  }

 private:
  void require(std::string_view key, std::string_view value) const {
    const auto got = file_.string(key);
    if (got != value)
      throw format_error(cat("[lora] ", file_.path(), ": '", key, "' is '", got.value_or("missing"), "'; expected '",
                             value, "'. Not a LoRA adapter?"));
  }

  void add(const gguf_tensor& t) {
    constexpr std::string_view a = ".lora_a";
    constexpr std::string_view b = ".lora_b";
    if (t.shape.size() != 2)
      throw format_error(
          cat("[lora] ", file_.path(), ": tensor '", t.name, "' has ", t.shape.size(), " dimensions; expected 2"));
    if (t.name.ends_with(a))
      matrices_[t.name.substr(0, t.name.size() - a.size())].a = t.matrix();
    else if (t.name.ends_with(b))
      matrices_[t.name.substr(0, t.name.size() - b.size())].b = t.matrix();
    else
      throw format_error(
          cat("[lora] ", file_.path(), ": tensor '", t.name, "'; expected names that end in .lora_a or .lora_b"));
  }

  [[nodiscard]] static std::string shape(const weight_view& w) {
    return w ? cat("[", w.rows, ", ", w.columns, "]") : "nothing";
  }

  gguf_file file_;
  float alpha_ = 0;
  std::map<std::string, matrices, std::less<>> matrices_;
};

}  // namespace blockattn::inline v0
