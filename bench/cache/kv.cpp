// Types of keys and values compared on questions over passages: bytes, encoding rate, perplexity of the final block, and
// best_subspan_em of the answers.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "blockattn/generate/precompute.hpp"
#include "cachebench.hpp"

namespace cachebench {
namespace {

using namespace blockattn;

struct question {
  std::string text, passage;
  std::vector<std::string> answers;
};

std::vector<question> read_questions(const options& o) {
  std::vector<question> result;
  std::ifstream in(o.questions);
  for (std::string line; result.size() < static_cast<std::size_t>(o.count) && std::getline(in, line);) {
    const auto value = nlohmann::json::parse(line);
    result.push_back({value.at("question"), value.at("title").get<std::string>() + "\n" + value.at("text").get<std::string>(), value.at("answers")});
  }
  return result;
}

/// Lower case, without punctuation, articles and extra white space.
std::string normalised(const std::string& text) {
  std::string plain;
  for (const char c : text)
    if (!std::ispunct(static_cast<unsigned char>(c))) plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  std::istringstream words(plain);
  std::string result;
  for (std::string word; words >> word;)
    if (word != "a" && word != "an" && word != "the") result += (result.empty() ? "" : " ") + word;
  return result;
}

bool is_right(const std::string& answer, const question& q) {
  const std::string text = normalised(answer);
  return std::any_of(q.answers.begin(), q.answers.end(), [&](const std::string& gold) { return text.find(normalised(gold)) != std::string::npos; });
}

/// Sum of -log p of the final block's tokens but for the first, behind the passages.
double final_block_loss(const model& m, block_cache& cache, const std::vector<std::vector<token_id>>& blocks) {
  std::vector<placed_block> placed;
  index_t offset = 0;
  for (std::size_t i = 0; i + 1 < blocks.size(); ++i) {
    auto r = cache.reserve(make_block_key(m.fingerprint(), blocks[i]));
    placed.push_back({r.block(), offset, false});
    offset += r.block()->tokens();
  }
  kv_tail tail = m.make_tail();
  const auto& ids = blocks.back();
  const auto logits = m.logits(m.forward({ids, offset, placed, hidden_rows::all}, tail));
  const auto vocabulary = static_cast<std::size_t>(m.config().vocabulary);
  double loss = 0;
  for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
    const float* row = logits.data() + t * vocabulary;
    const float most = *std::max_element(row, row + vocabulary);
    double sum = 0;
    for (std::size_t v = 0; v < vocabulary; ++v) sum += std::exp(static_cast<double>(row[v] - most));
    loss += std::log(sum) + most - row[static_cast<std::size_t>(ids[t + 1])];
  }
  return loss;
}

nlohmann::json measure(options o, const std::string& kv, const std::vector<question>& questions) {
  o.kv = kv;
  const model m = open_model(o);
  const auto cache = std::make_shared<block_cache>(std::size_t{8} << 30);
  index_t tokens = 0, final_tokens = 0;
  double seconds = 0, loss = 0;
  int right = 0;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    std::vector<std::string> passages;  // others first, the one that answers last
    for (int p = o.passages - 1; p >= 0; --p) passages.push_back(questions[(i + static_cast<std::size_t>(p) * 7) % questions.size()].passage);
    const auto texts = m.chat().rag("", passages, questions[i].text);
    std::vector<std::vector<token_id>> blocks;
    for (const auto& text : texts) blocks.push_back(m.vocabulary().encode(text));
    const auto before = cache->stats().bytes;
    const auto start = std::chrono::steady_clock::now();
    (void)precompute(m, *cache, std::span(blocks).first(blocks.size() - 1));
    seconds += seconds_since(start);
    tokens += static_cast<index_t>(cache->stats().bytes - before) / m.kv().token_bytes();
    loss += final_block_loss(m, *cache, blocks);
    final_tokens += static_cast<index_t>(blocks.back().size()) - 1;
    generation_options generation;
    generation.max_tokens = 24;
    right += is_right(session(m, cache).generate(texts, generation).text, questions[i]) ? 1 : 0;
  }
  const cache_stats s = cache->stats();
  return {{"kv", kv}, {"questions", questions.size()}, {"passages_a_prompt", o.passages}, {"blocks", s.blocks}, {"token_bytes", m.kv().token_bytes()},
          {"bytes_a_block", (s.bytes - s.blocks * block_cache::entry_overhead) / s.blocks}, {"encoded_tokens_per_second", static_cast<double>(tokens) / seconds},
          {"perplexity", std::exp(loss / static_cast<double>(final_tokens))}, {"best_subspan_em", static_cast<double>(right) / static_cast<double>(questions.size())}};
}

}  // namespace

int run_kv(const options& o) {
  const auto questions = read_questions(o);
  for (const std::string& kv : o.kvs) std::cout << measure(o, kv, questions).dump() << std::endl;
  return 0;
}

}  // namespace cachebench
