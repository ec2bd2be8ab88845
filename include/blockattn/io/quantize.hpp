// Quantises a checkpoint's float weights to q8_0 or q4_0, in memory, and lays them out as GGUF files do.
//
// Which type a tensor gets:
//   norms, biases, RoPE divisors (one dimension)                float32
//   matrices whose rows aren't whole blocks of 32 values        as they are
//   the output head (the embedding, if they are one), of q4_0   q8_0: it costs little and decides every token
//   all other float matrices, the embedding among them          the type asked for
//   what is quantised already                                   as it is
// Of a folder of safetensors files, rows of Q and K are put into GGUF's order and norms get the 1 that GGUF files include, so that the result can be written as a file
// (gguf_write.hpp) that other programs read too; their vocabulary is added where GGUF files have a name for it (huggingface_vocabulary.hpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/dtype_decode.hpp"
#include "blockattn/core/dtype_encode.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/log.hpp"
#include "blockattn/io/checkpoint.hpp"
#include "blockattn/io/huggingface_config.hpp"
#include "blockattn/io/huggingface_vocabulary.hpp"

namespace blockattn::inline v0 {

namespace detail {

class quantizer {
 public:
  quantizer(const checkpoint& from, dtype type, const progress_callback& progress)
      : from_(from), type_(type), progress_(progress), out_("quantize", from.path(), cat(from.format(), ", quantised")) {
    if (!can_encode(type)) throw argument_error(cat("[quantize] can't quantise to ", name(type), "; supported: q8_0, q4_0"));
    architecture_ = from.string("general.architecture").value_or("");
    native_ = from.string("blockattn.tensor_layout").value_or("gguf") == "huggingface";
    for (const huggingface_family& f : huggingface_families)
      if (f.architecture == architecture_) family_ = &f;
    if (native_ && family_ == nullptr) out_.fail("models of architecture '", printable(architecture_), "' aren't supported");
    heads_ = from.number<index_t>(key("attention.head_count")).value_or(0);
    kv_heads_ = from.number<index_t>(key("attention.head_count_kv")).value_or(heads_);
    rotated_ = from.number<index_t>(key("rope.dimension_count")).value_or(0);
    head_dim_ = from.number<index_t>(key("attention.key_length")).value_or(rotated_);
  }

  [[nodiscard]] checkpoint run() {
    copy_metadata();
    const bool tied = from_.find_tensor("output.weight") == nullptr;
    std::int64_t done = 0;
    index_t encoded = 0;
    for (const checkpoint_tensor& t : from_.tensors()) {
      const bool head = t.name == (tied ? "token_embd.weight" : "output.weight");
      const dtype to = type_of(t, head);
      encoded += to != t.type && !is_float(to) ? 1 : 0;
      convert(t, to);
      done += static_cast<std::int64_t>(t.bytes.size());
      report(done);
    }
    if (encoded == 0) throw argument_error(cat("[quantize] ", from_.path(), ": there is no float matrix to quantise; the weights are quantised already"));
    return std::move(out_);
  }

 private:
  [[nodiscard]] std::string key(std::string_view name) const { return architecture_ + "." + std::string(name); }

  void report(std::int64_t done) {
    if (progress_ && !progress_(done, static_cast<std::int64_t>(from_.size_bytes()))) throw cancelled_error("[quantize] cancelled by the progress callback");
  }

  void copy_metadata() {
    for (const auto& [name, value] : from_.metadata()) {
      if (name == "blockattn.tensor_layout") continue;
      const auto bytes = out_.allocate(value.bytes.size());
      std::copy(value.bytes.begin(), value.bytes.end(), bytes.begin());
      out_.set_value(name, {value.type, value.element, value.count, bytes});
    }
    out_.set_number("general.file_type", std::uint32_t{type_ == dtype::q8_0 ? 7U : 2U});  // llama.cpp's numbers
    out_.set_number("general.quantization_version", std::uint32_t{2});
    if (const checkpoint_tensor* embedding = from_.find_tensor("token_embd.weight"); native_ && embedding != nullptr) (void)add_gguf_vocabulary(out_, embedding->matrix().rows);
  }

  [[nodiscard]] dtype type_of(const checkpoint_tensor& t, bool head) const {
    if (!is_float(t.type)) return t.type;
    if (t.shape.size() == 1) return dtype::f32;
    if (t.shape[0] % block_values(type_) != 0) return t.type;
    return head ? dtype::q8_0 : type_;
  }

  /// Which row of the original is row `r` of the result.
  [[nodiscard]] index_t source_row(const checkpoint_tensor& t, index_t r, index_t rows) const {
    if (!native_ || !family_->adjacent) return r;
    const bool query = t.name.find(".attn_q.") != std::string::npos, is_key = t.name.find(".attn_k.") != std::string::npos;
    const index_t heads = query ? heads_ : is_key ? kv_heads_ : 0;
    if (heads <= 0 || head_dim_ <= 0 || rows != heads * head_dim_) return r;  // a wrong shape is named when the model is made
    return r / head_dim_ * head_dim_ + huggingface_channel(r % head_dim_, std::min(rotated_, head_dim_));
  }

  void convert(const checkpoint_tensor& t, dtype to) {
    const bool vector = t.shape.size() == 1;
    const weight_view whole = vector ? weight_view{t.type, t.bytes.data(), t.shape[0], 1} : t.matrix();
    const bool quantised = !is_float(t.type);
    if (quantised && native_) out_.fail("tensor '", printable(t.name), "' is ", name(t.type), " in a folder of float weights");
    const index_t row = vector ? block_bytes(to) : row_bytes(to, whole.columns);
    const auto bytes = out_.allocate(static_cast<std::size_t>(whole.rows * row));
    if (quantised) {
      std::memcpy(bytes.data(), t.bytes.data(), bytes.size());
    } else {
      const bool one = native_ && family_->gemma && t.name.ends_with("norm.weight");
      std::vector<float> values(static_cast<std::size_t>(whole.columns));
      for (index_t r = 0; r < whole.rows; ++r) convert_row(t, whole.row(source_row(t, r, whole.rows)), whole.type, to, values, one, bytes.data() + r * row);
    }
    out_.add_tensor({t.name, to, t.shape, bytes});
  }

  void convert_row(const checkpoint_tensor& t, const std::byte* from, dtype type, dtype to, std::vector<float>& values, bool add_one, std::byte* out) {
    const auto columns = static_cast<index_t>(values.size());
    if (type == to && !add_one) {
      std::memcpy(out, from, static_cast<std::size_t>(row_bytes(to, columns)));
      return;
    }
    decode_row(type, from, values.data(), columns);
    if (add_one)
      for (float& value : values) value += 1;
    if (to == dtype::f32) {
      std::memcpy(out, values.data(), values.size() * sizeof(float));
    } else if (!encode_row(to, values.data(), columns, out)) {
      out_.fail("tensor '", printable(t.name), "' has values that are infinite, not numbers, or too large to quantise. The weights are damaged; fetch them again.");
    }
  }

  const checkpoint& from_;
  dtype type_;
  const progress_callback& progress_;
  checkpoint_builder out_;
  std::string architecture_;
  const huggingface_family* family_ = nullptr;
  bool native_ = false;
  index_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0, rotated_ = 0;
};

}  // namespace detail

/// The same model with its float matrices quantised to `type` (q8_0 or q4_0), in buffers of its own. `progress` counts bytes read; false cancels (cancelled_error).
/// Throws argument_error (another type; nothing to quantise) and format_error (values that aren't finite, with the tensor's name).
[[nodiscard]] inline checkpoint quantize(const checkpoint& from, dtype type, const progress_callback& progress = {}) { return detail::quantizer(from, type, progress).run(); }

}  // namespace blockattn::inline v0
