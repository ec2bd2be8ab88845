// Reads the golden data of scripts/golden/make_model_golden.py; the format is written down in
// scripts/golden/golden_format.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn_test {

/// What the oracle says about one prompt. Letters: T tokens, S sampled positions, D model width.
struct golden_case {
  std::string name;
  blockattn::index_t local =
      0;  ///< the first `local` blocks attend to themselves only, the rest to everything before it; 0 = full mode
  blockattn::index_t max_blocks = -1;  ///< the plan that gave `local`
  blockattn::index_t global_blocks = 1;
  std::vector<blockattn::index_t> lengths;    ///< tokens of each block
  std::vector<blockattn::token_id> ids;       ///< [T]
  std::vector<blockattn::token_id> argmax;    ///< [T] most probable next token
  std::vector<float> margin;                  ///< [T] its logit minus the second one's
  std::vector<blockattn::index_t> positions;  ///< [S] ascending
  std::vector<float> llama_kl;                ///< [S] KL(oracle || llama.cpp), nats
  std::vector<float> hidden;                  ///< [S, D] after the last norm

  [[nodiscard]] blockattn::index_t tokens() const { return static_cast<blockattn::index_t>(ids.size()); }
  [[nodiscard]] bool full() const { return local == 0; }
};

struct golden_file {
  blockattn::index_t width = 0;       ///< D
  blockattn::index_t vocabulary = 0;  ///< V
  std::uint64_t model_bytes = 0;      ///< size of the model file that the data was made from
  std::vector<golden_case> cases;
};

namespace detail {

class golden_reader {
 public:
  explicit golden_reader(std::vector<char> bytes) : bytes_(std::move(bytes)) {}

  template <class T>
  T one() {
    T value{};
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }

  /// `count` values stored as From, each converted by static_cast.
  template <class To, class From>
  std::vector<To> many(std::size_t count) {
    std::vector<From> raw(checked(count, sizeof(From)));
    const char* from = take(count * sizeof(From));
    if (count != 0) std::memcpy(raw.data(), from, count * sizeof(From));
    std::vector<To> values;
    values.reserve(count);
    for (const From value : raw) values.push_back(static_cast<To>(value));
    return values;
  }

  std::vector<float> halves(std::size_t count) {
    std::vector<float> values;
    for (const std::uint16_t bits : many<std::uint16_t, std::uint16_t>(count))
      values.push_back(blockattn::f16_to_f32(bits));
    return values;
  }

  std::string text(std::size_t count) {
    const char* from = take(count);
    return {from, count};
  }

  [[nodiscard]] bool done() const { return at_ == bytes_.size(); }

 private:
  std::size_t checked(std::size_t count, std::size_t size) const {
    if (count > (bytes_.size() - at_) / size) throw std::runtime_error("golden data: ends too early");
    return count;
  }

  const char* take(std::size_t count) {
    const char* here = bytes_.data() + at_;
    at_ += checked(count, 1);
    return here;
  }

  std::vector<char> bytes_;
  std::size_t at_ = 0;
};

/// `wide`: ids are 32 bits, not 16.
inline golden_case read_case(golden_reader& in, std::size_t width, bool wide) {
  using blockattn::index_t;
  using blockattn::token_id;
  golden_case c;
  c.name = in.text(in.one<std::uint32_t>());
  const auto tokens = in.one<std::uint32_t>();
  const auto blocks = in.one<std::uint32_t>();
  c.local = in.one<std::uint32_t>();
  c.max_blocks = in.one<std::int32_t>();
  c.global_blocks = in.one<std::uint32_t>();
  const auto samples = in.one<std::uint32_t>();
  c.lengths = in.many<index_t, std::uint32_t>(blocks);
  for (auto* ids : {&c.ids, &c.argmax}) *ids = wide ? in.many<token_id, std::uint32_t>(tokens) : in.many<token_id, std::uint16_t>(tokens);
  c.margin = in.halves(tokens);
  c.positions = in.many<index_t, std::uint32_t>(samples);
  c.llama_kl = in.many<float, float>(samples);
  c.hidden = in.halves(samples * width);
  return c;
}

}  // namespace detail

/// Throws std::runtime_error if the bytes aren't golden data or end too early or too late.
inline golden_file parse_golden(std::vector<char> bytes) {
  detail::golden_reader in(std::move(bytes));
  const std::string magic = in.text(8);
  if (magic != "BAGOLD01" && magic != "BAGOLD02") throw std::runtime_error("golden data: doesn't begin with BAGOLD01 or BAGOLD02");
  golden_file file;
  file.width = in.one<std::uint32_t>();
  file.vocabulary = in.one<std::uint32_t>();
  file.model_bytes = in.one<std::uint64_t>();
  in.text(32);  // SHA-256, for people
  const auto cases = in.one<std::uint32_t>();
  for (std::uint32_t i = 0; i < cases; ++i)
    file.cases.push_back(detail::read_case(in, static_cast<std::size_t>(file.width), magic == "BAGOLD02"));
  if (!in.done()) throw std::runtime_error("golden data: bytes are left over");
  return file;
}

inline std::vector<char> read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("golden data: '" + path.string() + "' can't be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace blockattn_test
