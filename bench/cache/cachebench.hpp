// What the measurements of blockattn_cachebench share.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/cache/lmdb_tier.hpp"
#include "blockattn/generate/session.hpp"

namespace cachebench {

struct options {
  std::string model, lora, kv = "f16", disk, questions, pack;
  std::vector<std::string> kvs = {"f32", "f16", "bf16", "q8_0", "q8_0:q4_0", "q5_h:q4_h", "q4_h", "q4_0"};
  int tokens = 8192, passage = 150, query = 50, runs = 5, threads = 2, requests = 10000, passages = 2000, count = 40;
  double exponent = 1.0;
  bool simulated = false;
};

inline double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

/// Each prints JSON lines.
int run_zipf(const options& o);
int run_ttft(const options& o);
int run_kv(const options& o);

blockattn::model open_model(const options& o);

/// Token ids that no passage shares with another: deterministic, none of them a control token.
std::vector<blockattn::token_id> passage_ids(const blockattn::model& m, std::uint64_t number, int tokens);

}  // namespace cachebench
