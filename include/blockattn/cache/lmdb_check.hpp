// Whether a file is a sound LMDB database (format version 1, 64 bits), before LMDB itself opens it: LMDB trusts its file,
// so that a damaged page could end the process.
//
// Walked from the newer of the two meta pages: every page that is reachable lies in the file, says what it is, is reached
// once and isn't free; every node lies in its page; the pages and entries are as many as the tree says. Values are
// looked at where LMDB would use them (trees inside of the main one, free lists), not otherwise: what they hold is their
// owner's to check. Costs a read of the tree's pages and of the first page of each large value.
// Source of the format: mdb.c of LMDB 0.9 (MDB_page, MDB_meta, MDB_db, MDB_node).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

namespace detail {

class lmdb_walk {
 public:
  explicit lmdb_walk(std::span<const std::byte> file) : file_(file) {}

  /// What is wrong, or nothing.
  [[nodiscard]] std::string problem() {
    try {
      const tree_info main = read_meta();
      visited_.assign(pages_, false);
      visited_[0] = visited_[1] = true;
      walk_tree(free_, kind::free);
      walk_tree(main, kind::main);
      for (std::size_t i = 0; i < children_.size(); ++i) walk_tree(children_[i], kind::data);  // grows while it is walked
      for (const std::uint64_t page : free_pages_) check(page >= 2 && page < next_ && !(page < pages_ && visited_[page]), "a page is free and in use");
    } catch (const format_error& e) {
      return e.what();
    }
    return {};
  }

 private:
  enum class kind { free, main, data };
  struct tree_info {
    std::uint16_t flags, depth;
    std::uint64_t branches, leaves, overflows, entries, root;
  };

  static constexpr std::size_t header = 16;
  static constexpr std::uint16_t is_branch = 1, is_leaf = 2, is_overflow = 4, is_meta = 8;
  static constexpr std::uint16_t big_data = 1, sub_data = 2;

  static void check(bool good, const char* what) {
    if (!good) throw format_error(what);
  }

  template <class T>
  [[nodiscard]] T at(std::size_t offset) const {
    check(offset + sizeof(T) <= file_.size(), "the file is shorter than it says");
    T value;
    std::memcpy(&value, file_.data() + offset, sizeof(T));
    return value;
  }

  [[nodiscard]] tree_info tree(std::size_t offset) const {
    return {at<std::uint16_t>(offset + 4),  at<std::uint16_t>(offset + 6),  at<std::uint64_t>(offset + 8), at<std::uint64_t>(offset + 16),
            at<std::uint64_t>(offset + 24), at<std::uint64_t>(offset + 32), at<std::uint64_t>(offset + 40)};
  }

  /// Reads both meta pages; the newer one holds. Returns the main tree.
  [[nodiscard]] tree_info read_meta() {
    check(file_.size() >= 2 * 512, "the file is too short");
    page_size_ = at<std::uint32_t>(header + 24);
    check(page_size_ >= 512 && page_size_ <= 65536 && (page_size_ & (page_size_ - 1)) == 0, "not an LMDB file");
    pages_ = file_.size() / page_size_;
    std::size_t newest = 0;
    for (std::size_t meta = 0; meta < 2; ++meta) {
      const std::size_t page = meta * page_size_;
      check((at<std::uint16_t>(page + 10) & is_meta) != 0 && at<std::uint32_t>(page + header) == 0xBEEFC0DE, "not an LMDB file");
      check(at<std::uint32_t>(page + header + 4) == 1, "another version of LMDB");
      check(at<std::uint32_t>(page + header + 24) == page_size_, "the two meta pages disagree");
      if (at<std::uint64_t>(page + header + 128) > at<std::uint64_t>(newest * page_size_ + header + 128)) newest = meta;
    }
    const std::size_t meta = newest * page_size_ + header;
    const auto last = at<std::uint64_t>(meta + 120);
    const auto map_size = at<std::uint64_t>(meta + 16);
    check(last >= 1 && last < map_size / page_size_, "the last page lies outside of the map");
    next_ = last + 1;
    free_ = tree(meta + 24);
    return tree(meta + 72);
  }

  struct counts {
    std::uint64_t branches = 0, leaves = 0, overflows = 0, entries = 0;
  };

  void walk_tree(const tree_info& t, kind what) {
    check((t.flags & ~(what == kind::free ? 0x4008 : 0)) == 0, "a tree of a kind that isn't used here");
    counts seen;
    if (t.root != ~std::uint64_t{0}) {
      check(t.depth >= 1 && t.depth <= 32, "a tree of impossible depth");
      walk_page(t.root, t.depth, what, seen);
    }
    check(seen.branches == t.branches && seen.leaves == t.leaves && seen.overflows == t.overflows && seen.entries == t.entries,
          "a tree has other pages than it says");
  }

  /// Marks `count` pages from `page` on; returns the offset of the first.
  std::size_t visit(std::uint64_t page, std::uint64_t count = 1) {
    check(page >= 2 && count >= 1 && page < pages_ && count <= pages_ - page && page + count <= next_, "a page lies outside of the file");
    for (std::uint64_t i = page; i < page + count; ++i) {
      check(!visited_[i], "a page is used twice");
      visited_[i] = true;
    }
    const std::size_t offset = page * page_size_;
    check(at<std::uint64_t>(offset) == page, "a page has another's number");
    return offset;
  }

  void walk_page(std::uint64_t page, std::uint16_t depth, kind what, counts& seen) {
    const std::size_t offset = visit(page);
    const std::uint16_t expected = depth > 1 ? is_branch : is_leaf;
    check(at<std::uint16_t>(offset + 10) == expected, "a page is of the wrong kind");
    const auto lower = at<std::uint16_t>(offset + 12), upper = at<std::uint16_t>(offset + 14);
    check(lower >= header && lower % 2 == 0 && lower <= upper && upper <= page_size_, "a page is damaged");
    const std::size_t nodes = (lower - header) / 2;
    check(nodes >= (depth > 1 && what != kind::free ? 2U : 1U), "a page is empty");
    ++(depth > 1 ? seen.branches : seen.leaves);
    for (std::size_t i = 0; i < nodes; ++i) {
      const auto node = at<std::uint16_t>(offset + header + 2 * i);
      check(node >= upper && node % 2 == 0 && node + 8U <= page_size_, "a node lies outside of its page");
      if (depth > 1)
        walk_branch_node(offset, node, depth, what, seen);
      else
        walk_leaf_node(offset, node, what, seen);
    }
  }

  void walk_branch_node(std::size_t page, std::size_t node, std::uint16_t depth, kind what, counts& seen) {
    const auto low = at<std::uint16_t>(page + node), high = at<std::uint16_t>(page + node + 2), top = at<std::uint16_t>(page + node + 4);
    check(node + 8 + at<std::uint16_t>(page + node + 6) <= page_size_, "a key lies outside of its page");
    walk_page(low | std::uint64_t{high} << 16 | std::uint64_t{top} << 32, static_cast<std::uint16_t>(depth - 1), what, seen);
  }

  void walk_leaf_node(std::size_t page, std::size_t node, kind what, counts& seen) {
    const std::size_t size = at<std::uint16_t>(page + node) | std::size_t{at<std::uint16_t>(page + node + 2)} << 16;
    const auto flags = at<std::uint16_t>(page + node + 4), key = at<std::uint16_t>(page + node + 6);
    check((flags & ~(big_data | sub_data)) == 0 && key > 0, "a node of a kind that isn't used here");
    check(node + 8 + key + ((flags & big_data) != 0 ? 8 : size) <= page_size_, "a value lies outside of its page");
    ++seen.entries;
    std::size_t data = page + node + 8 + key;
    if ((flags & big_data) != 0) {
      const std::uint64_t first = at<std::uint64_t>(data);
      const std::uint64_t count = (header - 1 + size) / page_size_ + 1;
      data = visit(first, count) + header;
      check(at<std::uint16_t>(data - header + 10) == is_overflow && at<std::uint32_t>(data - header + 12) == count, "a large value is damaged");
      seen.overflows += count;
    }
    check((flags & sub_data) == 0 || (what == kind::main && size == 48), "a tree where none may be");
    if ((flags & sub_data) != 0) children_.push_back(tree(data));
    if (what == kind::free) read_free_list(data, key, size);
  }

  void read_free_list(std::size_t data, std::size_t key, std::size_t size) {
    check(key == 8 && size >= 8, "a free list is damaged");
    const auto count = at<std::uint64_t>(data);
    check(count <= (size - 8) / 8, "a free list is damaged");
    std::uint64_t before = ~std::uint64_t{0};
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto page = at<std::uint64_t>(data + 8 + 8 * i);
      check(page < before, "a free list is damaged");  // sorted, the largest first
      before = page;
      free_pages_.push_back(page);
    }
  }

  std::span<const std::byte> file_;
  std::size_t page_size_ = 0;
  std::uint64_t pages_ = 0;  ///< in the file
  std::uint64_t next_ = 0;   ///< the first page that was never used
  tree_info free_{};
  std::vector<tree_info> children_;
  std::vector<bool> visited_;
  std::vector<std::uint64_t> free_pages_;
};

}  // namespace detail

/// What is wrong with the bytes of an LMDB data file, or an empty text. Nobody may write to it meanwhile.
[[nodiscard]] inline std::string lmdb_problem(std::span<const std::byte> file) { return detail::lmdb_walk(file).problem(); }

}  // namespace blockattn::inline v0
