// Writes a checkpoint as a GGUF file, version 3 (gguf.hpp has the format), whole or not at all: into a new file beside the wanted one, which then takes its name.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

#include "blockattn/core/error.hpp"
#include "blockattn/core/log.hpp"
#include "blockattn/io/checkpoint.hpp"

namespace blockattn::inline v0 {

namespace detail {

/// A new file that becomes `path` when it is complete, and is gone otherwise.
class replacing_file {
 public:
  explicit replacing_file(const std::filesystem::path& path) : path_(path) {
    for (int i = 0; descriptor_ < 0 && i < 100; ++i) {
      temporary_ = cat(path.string(), ".", ::getpid(), "-", i, ".part");
      descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor_ < 0 && errno != EEXIST) break;
    }
    if (descriptor_ < 0) fail("can't make a file beside it");
  }
  replacing_file(const replacing_file&) = delete;
  replacing_file& operator=(const replacing_file&) = delete;
  ~replacing_file() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (descriptor_ >= 0 && !done_) ::unlink(temporary_.c_str());
  }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ::ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail("can't write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  void finish() {
    if (::fsync(descriptor_) != 0) fail("can't write");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("can't give the file its name");
    done_ = true;
  }

 private:
  [[noreturn]] void fail(const char* what) {
    const std::string reason = std::generic_category().message(errno);
    if (descriptor_ >= 0) {
      ::close(descriptor_);
      ::unlink(temporary_.c_str());
    }
    descriptor_ = -1;
    throw io_error(cat("[gguf] ", path_.string(), ": ", what, ": ", reason, ". Check the folder, its permissions and the space that is left."));
  }

  std::filesystem::path path_;
  std::string temporary_;
  int descriptor_ = -1;
  bool done_ = false;
};

inline constexpr std::size_t gguf_write_alignment = 32;

/// All before the data, padded.
[[nodiscard]] inline std::string gguf_header(const checkpoint& model) {
  std::string out = "GGUF";
  const auto put = [&out]<class T>(T value) { out.append(reinterpret_cast<const char*>(&value), sizeof(T)); };
  const auto put_text = [&](std::string_view text) {
    put(static_cast<std::uint64_t>(text.size()));
    out += text;
  };
  const auto skipped = [](std::string_view key) { return key.starts_with("split.") || key == "general.alignment"; };
  std::uint64_t count = 0;
  for (const auto& entry : model.metadata()) count += skipped(entry.first) ? 0U : 1U;
  put(std::uint32_t{3});
  put(static_cast<std::uint64_t>(model.tensors().size()));
  put(count);
  for (const auto& [key, value] : model.metadata()) {
    if (skipped(key)) continue;
    put_text(key);
    put(static_cast<std::uint32_t>(value.type));
    if (value.type == gguf_type::array) {
      put(static_cast<std::uint32_t>(value.element));
      put(value.count);
    }
    const std::string_view bytes(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
    if (value.type == gguf_type::string) put_text(bytes);
    else out += bytes;
  }
  std::uint64_t offset = 0;
  for (const checkpoint_tensor& t : model.tensors()) {
    put_text(t.name);
    put(static_cast<std::uint32_t>(t.shape.size()));
    for (const index_t size : t.shape) put(static_cast<std::uint64_t>(size));
    put(ggml_type_of(t.type));
    put(offset);
    offset += (t.bytes.size() + gguf_write_alignment - 1) / gguf_write_alignment * gguf_write_alignment;
  }
  out.resize((out.size() + gguf_write_alignment - 1) / gguf_write_alignment * gguf_write_alignment);
  return out;
}

}  // namespace detail

/// Writes `model` to `path`; a file there is replaced once the new one is complete. `progress` counts bytes of tensors; false cancels (cancelled_error).
/// Throws io_error; argument_error for a checkpoint whose tensors aren't laid out as in GGUF files (quantize() lays them out so).
inline void write_gguf(const checkpoint& model, const std::filesystem::path& path, const progress_callback& progress = {}) {
  if (model.string("blockattn.tensor_layout").value_or("gguf") != "gguf")
    throw argument_error(cat("[gguf] ", model.path(), ": its tensors are laid out as in Hugging Face's files, so it can't be written as it is. Quantise it first."));
  detail::replacing_file file(path);
  const std::string header = detail::gguf_header(model);
  file.write(std::as_bytes(std::span(header)));
  std::int64_t total = 0, done = 0;
  for (const checkpoint_tensor& t : model.tensors()) total += static_cast<std::int64_t>(t.bytes.size());
  const std::string zeros(detail::gguf_write_alignment, '\0');
  for (const checkpoint_tensor& t : model.tensors()) {
    file.write(t.bytes);
    file.write(std::as_bytes(std::span(zeros)).first((zeros.size() - t.bytes.size() % zeros.size()) % zeros.size()));
    done += static_cast<std::int64_t>(t.bytes.size());
    if (progress && !progress(done, total)) throw cancelled_error(cat("[gguf] ", path.string(), ": cancelled by the progress callback"));
  }
  file.finish();
}

}  // namespace blockattn::inline v0
