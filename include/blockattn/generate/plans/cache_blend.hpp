// CacheBlend (arXiv 2405.16444): cached blocks are moved to their places, then the tokens that deviate most are computed again with full visibility.
//
// Layers up to `check` are computed for all tokens with full attention. In layer `check`, cached tokens are ranked by the squared difference of their key (or
// value) from the cached one; the first `ratio` of them, and all of what isn't cached, are computed in the layers from `check` on, where the others' keys and values
// are the cached ones. What is before the check layer is the same for all. The recomputed tokens go through the first layers a second time here, since a run
// starts at its embeddings; the operations counted say so.
#pragma once

#include <cstring>

#include "blockattn/generate/plans/prompt_run.hpp"

namespace blockattn::inline v0 {

enum class deviation_of { keys, values };

struct cache_blend_plan {
  static constexpr std::string_view name = "cacheblend";
  double ratio = 0.15;
  index_t check = 1;  ///< a layer, 1 or more
  deviation_of measure = deviation_of::keys;

  void prefill(prompt_run& run) const {
    const model& m = run.get_model();
    if (check >= m.config().layers) throw argument_error(cat("[plan] cacheblend: check=", check, "; the model has the layers 0 to ", m.config().layers - 1));
    if (run.reusable() == 0) return run.finish_blocks();
    const auto blocks = run.encode_alone(0, run.reusable());
    const std::vector<token_id> ids = tokens_of(run);
    const auto fresh = first_layers(run, ids);
    const auto mixed = mix(m, blocks, *fresh);
    const std::vector<bool> chosen = choose(m, *fresh, *mixed);
    const auto cached = static_cast<index_t>(chosen.size());
    token_run again;
    for (index_t i = 0; i < cached; ++i)
      if (chosen[static_cast<std::size_t>(i)]) {
        again.ids.push_back(ids[static_cast<std::size_t>(i)]);
        again.places.push_back(i);
      }
    std::vector<token_id> rest = run.rest();
    run.begin_with(m.tail_from(mixed, cached + static_cast<index_t>(rest.size())), blocks);
    run.finish(std::span(&again, again.ids.empty() ? 0U : 1U), std::move(rest), cached, static_cast<double>(cached));
  }

 private:
  /// Of all reusable blocks.
  [[nodiscard]] static std::vector<token_id> tokens_of(const prompt_run& run) {
    std::vector<token_id> result;
    for (index_t i = 0; i < run.reusable(); ++i) result.insert(result.end(), run.ids(i).begin(), run.ids(i).end());
    return result;
  }

  /// Keys and values of all tokens in the layers 0 to `check` under full attention; the other layers are undefined.
  [[nodiscard]] std::shared_ptr<const kv_block> first_layers(prompt_run& run, std::span<const token_id> ids) const {
    kv_tail tail = run.get_model().make_tail(static_cast<index_t>(ids.size()));
    forward_control control = run.control();
    control.layers = check + 1;
    const std::array runs = {forward_run{{ids, 0, {}, hidden_rows::none}, &tail}};
    (void)run.get_model().forward(runs, control);
    return in_host(run.get_model().finish(tail));
  }

  /// A block that the host can read.
  [[nodiscard]] static std::shared_ptr<const kv_block> in_host(std::shared_ptr<const kv_block> block) { return block->memory() == nullptr ? block : model::to_host(*block); }

  /// One block of all cached tokens at their places: fresh below the check layer, moved cached ones from it on.
  [[nodiscard]] std::shared_ptr<const kv_block> mix(const model& m, const std::vector<std::shared_ptr<const kv_block>>& blocks, const kv_block& fresh) const {
    auto result = std::make_shared<kv_block>(fresh.layout(), fresh.tokens());
    const index_t layer_bytes = fresh.bytes() / fresh.layout().layers;
    std::memcpy(result->data(), fresh.data(), static_cast<std::size_t>(check * layer_bytes));
    index_t offset = 0;
    for (const auto& block : blocks) {
      const auto moved = in_host(m.moved(*block, offset));
      for (index_t l = check; l < fresh.layout().layers; ++l) copy_layer(*moved, *result, l, offset);
      offset += block->tokens();
    }
    return result;
  }

  static void copy_layer(const kv_block& from, kv_block& to, index_t l, index_t offset) {
    const kv_view source = from.layer(l), target = to.layer(l);
    const auto copy = [&](const std::byte* of, const std::byte* at, index_t row, index_t head) {
      std::byte* place = to.data() + (at - to.data()) + (head * to.tokens() + offset) * row;
      std::memcpy(place, of + head * from.tokens() * row, static_cast<std::size_t>(from.tokens() * row));
    };
    for (index_t head = 0; head < from.layout().kv_heads; ++head) {
      copy(source.keys, target.keys, from.layout().key_row_bytes(), head);
      copy(source.values, target.values, from.layout().value_row_bytes(), head);
    }
  }

  /// Which cached tokens are computed again.
  [[nodiscard]] std::vector<bool> choose(const model& m, const kv_block& fresh, const kv_block& cached) const {
    const auto tokens = static_cast<std::size_t>(fresh.tokens());
    const index_t size = fresh.layout().head_dim;
    const std::vector<float> x = m.layer_values(fresh, check, measure == deviation_of::values), y = m.layer_values(cached, check, measure == deviation_of::values);
    std::vector<double> deviation(tokens, 0);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double difference = static_cast<double>(x[i]) - static_cast<double>(y[i]);
      deviation[i / static_cast<std::size_t>(size) % tokens] += difference * difference;
    }
    std::vector<std::size_t> order(tokens);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return deviation[i] > deviation[j]; });
    std::vector<bool> chosen(tokens, false);
    const auto count = static_cast<std::size_t>(std::llround(ratio * static_cast<double>(tokens)));
    for (std::size_t i = 0; i < std::min(count, tokens); ++i) chosen[order[i]] = true;
    return chosen;
  }
};

}  // namespace blockattn::inline v0
