// Writing a pack, so that it can be interrupted at any moment and goes on where it was.
//
// Records are appended to "<name>.part". Whoever goes on with it takes over the records whose checksums are right and
// cuts off what comes after them. When it is complete it gets its index and, whole, its name. An earlier pack of the same
// model under that name gives the blocks that it has. Records that nobody wants any more are not carried on.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "blockattn/cache/block_cache.hpp"
#include "blockattn/cache/pack.hpp"
#include "blockattn/cache/pack_format.hpp"

namespace blockattn::inline v0 {

/// Not thread-safe: one writer, one thread.
class pack_writer {
 public:
  /// Begins a pack or goes on with one. `wanted` are the hashes of all blocks that it shall hold. Throws io_error (can't
  /// write there, another process does).
  pack_writer(std::filesystem::path path, const fingerprint128& model, const fingerprint_parts& identity, const std::vector<block_key>& wanted)
      : path_(std::move(path)), part_(path_.string() + ".part"), model_(model), head_(detail::pack_head(model, identity.text())) {
    for (const block_key& key : wanted) wanted_.insert(key.hash);
    if (std::filesystem::is_directory(path_)) throw io_error(cat("[pack] ", path_.string(), ": is a folder; give the name of a file"));
    open_part();
    take_over_part();
    take_over_pack();
  }
  pack_writer(const pack_writer&) = delete;
  pack_writer& operator=(const pack_writer&) = delete;

  /// Blocks that it has already, from before.
  [[nodiscard]] std::size_t taken_over() const { return taken_over_; }
  [[nodiscard]] std::size_t blocks() const { return entries_.size(); }
  [[nodiscard]] bool contains(const block_key& key) const { return entries_.contains(key.hash); }
  /// Bytes so far.
  [[nodiscard]] std::uint64_t size_bytes() const { return end_; }

  /// Appends a block; one that it has isn't written twice. Throws io_error (disk full: what is written stays, and can be
  /// gone on with) and argument_error for a block of another model.
  void add(const block_key& key, const kv_block& block) {
    if (key.model != model_) throw argument_error(cat("[pack] a block of model ", to_string(key.model), "; this pack is of model ", to_string(model_)));
    if (contains(key)) return;
    std::vector<std::byte> record(detail::pack_align(detail::pack_unit + payload_of(block).size()));
    detail::store_fingerprint(record.data(), key.hash);
    const std::uint64_t stamp = new_stamp();
    write_record_header(record.data() + 16, key, block.tokens(), payload_of(block), stamp);
    std::copy(payload_of(block).begin(), payload_of(block).end(), record.begin() + detail::pack_unit);
    append(record, {key.hash, end_, payload_of(block).size(), stamp, static_cast<std::uint32_t>(block.tokens())});
  }

  /// Writes the index, makes all of it durable, and gives it its name. The writer is at its end then.
  void finish() {
    std::vector<pack_entry> sorted;
    for (const auto& [hash, entry] : entries_) sorted.push_back(entry);
    std::sort(sorted.begin(), sorted.end(), [](const pack_entry& a, const pack_entry& b) { return a.hash < b.hash; });
    write_at(end_, detail::pack_index(sorted, end_));
    if (::fsync(file_.number) != 0) throw failure("can't be made durable", errno);
    std::error_code failed;
    std::filesystem::rename(part_, path_, failed);
    if (failed) throw failure("can't get its name", failed.value());
    const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
    const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
      (void)::fsync(directory);
      ::close(directory);
    }
  }

 private:
  /// Closed at its end; the lock goes with it.
  struct descriptor {
    descriptor() = default;
    descriptor(const descriptor&) = delete;
    descriptor& operator=(const descriptor&) = delete;
    ~descriptor() { close(); }
    descriptor& operator=(int opened) {
      close();
      number = opened;
      return *this;
    }
    void close() const {
      if (number >= 0) ::close(number);
    }
    int number = -1;
  };

  [[nodiscard]] io_error failure(const char* what, int number) const {
    return io_error(cat("[pack] ", part_.string(), ": ", what, ": ", std::generic_category().message(number),
                        number == ENOSPC ? ". Make room and run it again: it goes on where it was." : ". Check the path and its permissions."));
  }

  void open_part() {
    for (;;) {
      file_ = ::open(part_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
      if (file_.number < 0) throw failure("can't be written", errno);
      struct ::flock lock {};
      lock.l_type = F_WRLCK;
      lock.l_whence = SEEK_SET;
      if (::fcntl(file_.number, F_OFD_SETLK, &lock) != 0)
        throw io_error(cat("[pack] ", part_.string(), ": another process is writing this pack. Wait for it, or give another name."));
      struct ::stat mine {}, named {};
      if (::fstat(file_.number, &mine) == 0 && ::stat(part_.c_str(), &named) == 0 && mine.st_ino == named.st_ino && mine.st_dev == named.st_dev) return;
    }  // another process has finished it between the two calls: what was opened is its pack now
  }

  /// Keeps the records of an interrupted run, if it was of this model; begins anew otherwise.
  void take_over_part() {
    const off_t size = ::lseek(file_.number, 0, SEEK_END);
    std::uint64_t end = 0;
    bool unwanted = false;
    if (static_cast<std::size_t>(std::max<off_t>(size, 0)) >= head_.size()) {
      const mapped_file old(part_);
      if (std::equal(head_.begin(), head_.end(), old.bytes().begin())) end = scan(old.bytes(), unwanted);
      if (unwanted) copy_wanted(old.bytes());
    }
    if (unwanted) return;
    if (end == 0) {
      entries_.clear();
      write_at(0, head_);
    }
    end_ = std::max<std::uint64_t>(end, head_.size());
    if (::ftruncate(file_.number, static_cast<off_t>(end_)) != 0) throw failure("can't be cut", errno);
    taken_over_ = entries_.size();
  }

  /// Notes all sound records; returns where they end.
  std::uint64_t scan(std::span<const std::byte> bytes, bool& unwanted) {
    std::uint64_t at = head_.size();
    while (const auto found = detail::pack_record(bytes, at, bytes.size())) {
      const auto& [hash, record] = *found;
      if (!is_intact({hash, model_}, record)) break;
      unwanted |= !wanted_.contains(hash);
      entries_[hash] = {hash, at, record.payload.size(), record.stamp, static_cast<std::uint32_t>(record.tokens)};
      const std::uint64_t next = detail::pack_align(at + detail::pack_unit + record.payload.size());
      if (next > bytes.size()) {  // its padding is missing: not written whole
        entries_.erase(hash);
        break;
      }
      at = next;
    }
    return at;
  }

  /// Moves wanted records to the front. Each is rewritten from a copy, so an interruption loses no more than what it moved.
  void copy_wanted(std::span<const std::byte> bytes) {
    std::vector<pack_entry> old;
    for (const auto& [hash, entry] : entries_)
      if (wanted_.contains(hash)) old.push_back(entry);
    std::sort(old.begin(), old.end(), [](const pack_entry& a, const pack_entry& b) { return a.offset < b.offset; });
    entries_.clear();
    end_ = head_.size();
    for (const pack_entry& entry : old) {
      const auto record = bytes.subspan(entry.offset, detail::pack_align(detail::pack_unit + entry.bytes));
      const std::vector<std::byte> copy(record.begin(), record.end());
      append(copy, {entry.hash, end_, entry.bytes, entry.stamp, entry.tokens});
    }
    if (::ftruncate(file_.number, static_cast<off_t>(end_)) != 0) throw failure("can't be cut", errno);
    taken_over_ = entries_.size();
  }

  /// Copies wanted blocks of an earlier pack under the final name.
  void take_over_pack() {
    if (!std::filesystem::exists(path_)) return;
    std::optional<pack_file> old;
    try {
      old.emplace(path_);
    } catch (const error&) {
      return;  // damaged or foreign: it's replaced at the end
    }
    if (old->model() != model_) return;
    for (std::size_t i = 0; i < old->blocks(); ++i) {
      const pack_entry e = old->entry(i);
      const auto record = old->record(i);
      if (!wanted_.contains(e.hash) || entries_.contains(e.hash) || !record || !is_intact(old->key(i), *record)) continue;
      std::vector<std::byte> copy(detail::pack_align(detail::pack_unit + e.bytes));
      detail::store_fingerprint(copy.data(), e.hash);
      std::copy_n(record->payload.data() - record_header_bytes, record_header_bytes, copy.begin() + 16);
      std::copy(record->payload.begin(), record->payload.end(), copy.begin() + detail::pack_unit);
      append(copy, {e.hash, end_, e.bytes, e.stamp, e.tokens});
      ++taken_over_;
    }
  }

  void append(std::span<const std::byte> record, const pack_entry& entry) {
    write_at(end_, record);
    entries_[entry.hash] = entry;
    end_ += record.size();
  }

  void write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t done = ::pwrite(file_.number, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) throw failure("can't be written", done < 0 ? errno : ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
      offset += static_cast<std::uint64_t>(done);
    }
  }

  std::filesystem::path path_, part_;
  fingerprint128 model_;
  std::vector<std::byte> head_;
  std::unordered_set<fingerprint128> wanted_;
  std::unordered_map<fingerprint128, pack_entry> entries_;
  std::uint64_t end_ = 0;
  std::size_t taken_over_ = 0;
  descriptor file_;
};

/// Copies all sound blocks of a pack of `layout`'s model into a tier. Returns how many it gave to it.
inline std::size_t import_pack(const pack_file& pack, block_tier& tier, const kv_layout& layout) {
  tier.introduce(pack.model(), pack.identity());
  std::size_t count = 0;
  for (std::size_t i = 0; i < pack.blocks(); ++i) {
    const auto record = pack.record(i);
    if (!record || !has_layout(*record, layout) || !is_intact(pack.key(i), *record)) continue;
    tier.put(pack.key(i), copy_of(*record, layout));
    if (++count % 16 == 0) tier.flush();  // a tier's queue is bounded
  }
  tier.flush();
  return count;
}

/// Adds those of `keys` that a cache or its tiers have to a pack. Returns how many these were.
inline std::size_t export_blocks(block_cache& cache, std::span<const block_key> keys, const kv_layout& layout, pack_writer& pack) {
  std::size_t count = 0;
  for (const block_key& key : keys) {
    auto reservation = cache.reserve(key);
    if (!cache.fetch(reservation, layout)) continue;
    pack.add(key, *reservation.block());
    ++count;
  }
  return count;
}

}  // namespace blockattn::inline v0
