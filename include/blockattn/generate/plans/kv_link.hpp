// KVLink-N (arXiv 2502.16002): N link tokens behind each passage see everything before them; a passage sees itself alone. Positions are global, link tokens
// counted. Link tokens are to be trained: `token` is the first of N consecutive ids that an adapter was trained with; without one, the model's end token is
// repeated, untrained.
#pragma once

#include "blockattn/generate/plans/prompt_run.hpp"

namespace blockattn::inline v0 {

struct kv_link_plan {
  static constexpr std::string_view name = "kvlink";
  index_t links = 1;
  token_id token = -1;

  void prefill(prompt_run& run) const {
    const tokenizer& vocabulary = run.get_model().vocabulary();
    if (token + links > vocabulary.vocab_size())
      throw argument_error(cat("[plan] kvlink: ", links, " link tokens from token ", token, "; the vocabulary has ", vocabulary.vocab_size()));
    if (token < 0 && links > 0 && !vocabulary.eos()) throw argument_error("[plan] kvlink: the model has no end token; give token=ID");
    index_t offset = 0;
    std::vector<token_run> runs;
    const auto blocks = run.encode_alone(0, run.reusable());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      run.place({blocks[i], offset});
      offset += blocks[i]->tokens();
      if (i == 0 || links == 0) continue;
      token_run link{{}, offset};
      for (index_t n = 0; n < links; ++n) link.ids.push_back(token < 0 ? *vocabulary.eos() : static_cast<token_id>(token + n));
      runs.push_back(std::move(link));
      offset += links;
    }
    run.finish(runs, run.rest(), offset, static_cast<double>(offset));
  }
};

}  // namespace blockattn::inline v0
