// What a checkpoint's tensors are, whatever its files are called and whatever else they say: names, types and bytes, in the
// file's order (of a folder: in the order of their names, whichever file they are in). An adapter's alpha counts too, since it scales its matrices.
//
// Reading hundreds of megabytes to hash them takes longer than all else at opening, so the fingerprint is remembered:
// in "<model>.fingerprint" beside the file, or, where that folder can't be written, in
// ${XDG_CACHE_HOME:-~/.cache}/blockattn/fingerprints/<hash of the path>.fingerprint. It counts only for a file of the
// same size and time of change, whose head and samples of whose tensors hash to the same; anything else, a damaged side
// file or one that another user planted is passed over and written anew.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/fingerprint.hpp"
#include "blockattn/io/checkpoint.hpp"

namespace blockattn::inline v0 {

/// Reads all tensors. The same on every machine.
[[nodiscard]] inline fingerprint128 hash_tensors(const checkpoint& file) {
  const bool adapter = file.string("general.type").value_or("model") == "adapter";
  fingerprint128 result = hash_text(adapter ? cat(file.number<float>("adapter.lora.alpha").value_or(0)) : "");
  for (const checkpoint_tensor& t : file.tensors())
    result = combine(result, combine(hash_text(cat(t.name, ' ', name(t.type))), hash_bytes(t.bytes)));
  return result;
}

/// Where the fingerprint of a file may be remembered, the first choice first. Empty for a file that isn't on disk.
[[nodiscard]] inline std::vector<std::filesystem::path> fingerprint_files(const checkpoint& file) {
  namespace fs = std::filesystem;
  std::error_code failed;
  const fs::path path = fs::canonical(file.path(), failed);
  if (failed) return {};
  std::vector<fs::path> result{path.string() + ".fingerprint"};
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const fs::path folder = cache != nullptr && *cache != '\0' ? fs::path(cache) : (home != nullptr && *home != '\0' ? fs::path(home) / ".cache" : fs::path());
  if (!folder.empty()) result.push_back(folder / "blockattn" / "fingerprints" / (to_string(hash_text(path.string())) + ".fingerprint"));
  return result;
}

namespace detail {

/// Hash of the names, types and places of all tensors and of 64 samples of 4 KiB: tells apart files whose size and time
/// are the same by chance, at the cost of a few pages.
[[nodiscard]] inline fingerprint128 sample_tensors(const checkpoint& file) {
  constexpr std::size_t samples = 64, sample_bytes = 4096;
  fingerprint128 result;
  std::size_t total = 0;
  for (const checkpoint_tensor& t : file.tensors()) {
    result = combine(result, hash_text(cat(t.name, ' ', name(t.type), ' ', t.bytes.size())));
    total += t.bytes.size();
  }
  const std::size_t step = std::max<std::size_t>(total / samples, 1);
  std::size_t next = 0, passed = 0;  // bytes of tensors: the next sample, and those before the current tensor
  for (const checkpoint_tensor& t : file.tensors()) {
    for (; next < passed + t.bytes.size(); next += step) {
      const std::size_t at = next - passed;
      result = combine(result, hash_bytes(t.bytes.subspan(at, std::min(sample_bytes, t.bytes.size() - at))));
    }
    passed += t.bytes.size();
  }
  return result;
}

/// What a side file says before its check line; a fingerprint counts if all of it but the last line is as expected.
[[nodiscard]] inline std::optional<std::string> fingerprint_claim(const checkpoint& file) {
  struct ::stat status {};
  if (::stat(file.path().c_str(), &status) != 0 || static_cast<std::size_t>(status.st_size) != file.size_bytes()) return std::nullopt;
  return cat("blockattn.fingerprint1\nsize ", status.st_size, "\nmodified ", status.st_mtim.tv_sec, '.', status.st_mtim.tv_nsec, "\nsamples ",
             to_string(sample_tensors(file)), "\ntensors ");
}

/// The fingerprint that a side file remembers under this claim; nothing for any other content. Only files of this user,
/// of root or of the model's owner are believed.
[[nodiscard]] inline std::optional<fingerprint128> read_fingerprint(const std::filesystem::path& side, const std::string& claim, const std::string& model) {
  struct ::stat mine {}, its {};
  if (::stat(side.c_str(), &mine) != 0 || !S_ISREG(mine.st_mode) || mine.st_size > 4096 || ::stat(model.c_str(), &its) != 0) return std::nullopt;
  if (mine.st_uid != 0 && mine.st_uid != ::geteuid() && mine.st_uid != its.st_uid) return std::nullopt;
  std::ifstream in(side, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (text.size() < claim.size() + 32 || !text.starts_with(claim)) return std::nullopt;
  const std::string body = text.substr(0, claim.size() + 32);
  if (text != cat(body, "\ncheck ", to_string(hash_text(body)), '\n')) return std::nullopt;
  return parse_fingerprint(std::string_view(body).substr(claim.size()));
}

/// Whole or not at all. False if it can't be written there.
inline bool write_fingerprint(const std::filesystem::path& side, const std::string& claim, const fingerprint128& value) {
  namespace fs = std::filesystem;
  std::error_code failed;
  const fs::path part = cat(side.string(), '.', ::getpid(), ".part");
  const std::string body = claim + to_string(value);
  bool done = false;
  {
    std::ofstream out(part, std::ios::binary);
    out << body << "\ncheck " << to_string(hash_text(body)) << '\n';
    out.close();
    done = static_cast<bool>(out);
  }
  if (done) fs::rename(part, side, failed);
  if (done && !failed) return true;
  fs::remove(part, failed);
  return false;
}

}  // namespace detail

/// As hash_tensors(), from a side file if one is valid; otherwise the tensors are read and the result is remembered where
/// that is possible. Files below `least` bytes are always read. Never throws for what is wrong with side files.
[[nodiscard]] inline fingerprint128 remembered_hash_tensors(const checkpoint& file, std::size_t least = std::size_t{32} << 20) {
  if (file.size_bytes() < least) return hash_tensors(file);
  const auto claim = detail::fingerprint_claim(file);
  if (!claim) return hash_tensors(file);
  const auto sides = fingerprint_files(file);
  for (const auto& side : sides)
    if (const auto known = detail::read_fingerprint(side, *claim, file.path())) return *known;
  const fingerprint128 result = hash_tensors(file);
  for (const auto& side : sides) {
    std::error_code ignored;
    if (&side != &sides.front()) std::filesystem::create_directories(side.parent_path(), ignored);
    if (detail::write_fingerprint(side, *claim, result)) break;
  }
  return result;
}

}  // namespace blockattn::inline v0
