// Time to first token of this process over a disk cache that an earlier one filled, against the same blocks in memory. The
// first call fills the cache.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "blockattn/generate/precompute.hpp"
#include "cachebench.hpp"

namespace cachebench {
namespace {

using namespace blockattn;

double run(const model& m, const std::shared_ptr<block_cache>& cache, const std::vector<std::vector<token_id>>& prompt, std::vector<float>& logits) {
  session s(m, cache);
  const auto start = std::chrono::steady_clock::now();
  logits = s.logits_of_ids(prompt);
  return 1000 * seconds_since(start);
}

/// Takes the file out of the system's cache, as far as the system does so.
void forget_pages(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY);
  if (descriptor < 0) return;
  (void)::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
  ::close(descriptor);
}

std::shared_ptr<block_cache> open_cache(const options& o, std::size_t memory) {
  return std::make_shared<block_cache>(memory, log_sink{}, tier_list{std::make_shared<lmdb_tier>(lmdb_options{o.disk, std::size_t{2} << 30, std::size_t{512} << 20, {}})});
}

/// The blocks as copies in memory, behind no disk.
std::shared_ptr<block_cache> in_memory(const model& m, block_cache& from, const std::vector<std::vector<token_id>>& passages) {
  auto cache = std::make_shared<block_cache>(std::size_t{4} << 30);
  for (const auto& ids : passages) {
    auto source = from.reserve(make_block_key(m.fingerprint(), ids));
    (void)from.fetch(source, m.kv());
    auto copy = std::make_shared<kv_block>(m.kv(), source.block()->tokens());
    std::copy_n(source.block()->data(), static_cast<std::size_t>(copy->bytes()), copy->data());
    cache->reserve(make_block_key(m.fingerprint(), ids)).publish(copy);
  }
  return cache;
}

}  // namespace

int run_ttft(const options& o) {
  const auto begin = std::chrono::steady_clock::now();
  const model m = open_model(o);
  (void)m.fingerprint();
  const double open_ms = 1000 * seconds_since(begin);
  std::vector<std::vector<token_id>> prompt;
  for (int left = o.tokens - o.query, p = 0; left > 0; left -= o.passage, ++p) prompt.push_back(passage_ids(m, static_cast<std::uint64_t>(p), std::min(left, o.passage)));
  auto passages = prompt;
  prompt.push_back(passage_ids(m, 1000000, o.query));
  const auto store_begin = std::chrono::steady_clock::now();
  auto cache = open_cache(o, std::size_t{4} << 30);
  const double store_ms = 1000 * seconds_since(store_begin);
  std::vector<float> first, later;
  const double new_process = run(m, cache, prompt, first);
  cache->flush();
  const bool filled = cache->stats().fetched == 0;
  std::vector<double> disk, memory;
  const auto copies = in_memory(m, *cache, passages);
  bool equal = true;
  for (int i = 0; i < o.runs; ++i) {
    disk.push_back(run(m, cache, prompt, later));
    equal &= later == first;
    memory.push_back(run(m, copies, prompt, later));
    equal &= later == first;
  }
  double cold = -1, read_ms = -1;
  cache.reset();
  if (!filled) {
    const std::filesystem::path file = std::filesystem::path(o.disk) / "data.mdb";
    forget_pages(file);
    const auto start = std::chrono::steady_clock::now();
    std::vector<char> buffer(1 << 20);
    const int descriptor = ::open(file.c_str(), O_RDONLY);
    while (::read(descriptor, buffer.data(), buffer.size()) > 0) {
    }
    ::close(descriptor);
    read_ms = 1000 * seconds_since(start);
    forget_pages(file);
    cold = run(m, open_cache(o, std::size_t{4} << 30), prompt, later);
    equal &= later == first;
  }
  const auto least = [](const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); };
  std::cout << nlohmann::json{{"tokens", o.tokens}, {"kv", o.kv}, {"bytes", m.kv().token_bytes() * (o.tokens - o.query)}, {"filled_now", filled}, {"open_model_ms", open_ms}, {"open_store_ms", store_ms},
                              {"new_process_ms", new_process}, {"disk_again_ms", least(disk)}, {"memory_ms", least(memory)}, {"cold_ms", cold}, {"read_file_ms", read_ms}, {"equal", equal}}
                   .dump()
            << std::endl;
  return equal ? 0 : 1;
}

}  // namespace cachebench
