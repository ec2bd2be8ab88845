// Laws of attention plans: position rules on cases made by hand, limits that are other plans, hit and miss to the bit.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_model.hpp"

using namespace blockattn;
using blockattn_test::tiny_model;

namespace {

using prompt = std::vector<std::vector<token_id>>;

const model& tiny(unsigned seed = 1) {
  static std::map<unsigned, model> models;
  const auto found = models.find(seed);
  if (found != models.end()) return found->second;
  const blockattn_test::temporary_file file(tiny_model(seed).file().bytes());
  return models.emplace(seed, model::load(file.path(), {precision::exact})).first->second;
}

prompt blocks_of(const std::vector<index_t>& lengths) {
  prompt blocks;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    blocks.emplace_back();
    for (index_t i = 0; i < lengths[b]; ++i) blocks.back().push_back(static_cast<token_id>(3 + (static_cast<index_t>(b) * 29 + i * i * 37) % 250));
  }
  return blocks;
}

std::vector<float> logits(const model& m, const prompt& blocks, std::string_view plan, std::shared_ptr<block_cache> cache = nullptr, generation_result* result = nullptr) {
  return session(m, std::move(cache)).logits_of_ids(blocks, parse_plan(plan), result);
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

const std::vector<std::string> all_plans = {"full", "block", "block:rotation=keys", "local", "prefixed", "promptcache", "promptcache:align=left", "promptcache:slot=60", "pcw", "pcw:align=right,bos=0",
                                            "superposition:k=2,task=3", "superposition:k=0,span=20", "ape", "ape:T=0.5,S=1.2", "epic:k=5", "cacheblend:ratio=0.3,check=1", "kvlink:n=3,token=7", "turborag",
                                            "turborag:positions=reordered"};

}  // namespace

TEST_CASE("a hit gives the bits of a miss, under every plan", "[plans][laws]") {
  const prompt blocks = blocks_of({9, 21, 14, 30, 12});
  for (const std::string& plan : all_plans) {
    INFO(plan);
    const auto cache = std::make_shared<block_cache>(std::size_t{16} << 20);
    generation_result miss, hit;
    const auto first = logits(tiny(), blocks, plan, cache, &miss);
    CHECK(logits(tiny(), blocks, plan, cache, &hit) == first);
    CHECK(hit.blocks.encoded == 0);
    CHECK(miss.blocks.encoded == miss.blocks.total);
    CHECK(hit.operations > 0);
    if (plan != "full") CHECK(hit.operations < miss.operations);
    CHECK(std::all_of(first.begin(), first.end(), [](float x) { return std::isfinite(x); }));
  }
}

TEST_CASE("limits of plans are other plans", "[plans][laws]") {
  const prompt blocks = blocks_of({9, 21, 14, 30, 12});
  const auto full = logits(tiny(), blocks, "full"), block = logits(tiny(), blocks, "block");
  CHECK(difference(logits(tiny(), blocks, "epic:k=1000"), full) < 2e-4);
  CHECK(difference(logits(tiny(), blocks, "epic:k=0"), block) < 2e-4);
  CHECK(difference(logits(tiny(), blocks, "cacheblend:ratio=1"), full) < 2e-4);
  CHECK(difference(logits(tiny(), blocks, "cacheblend:ratio=0"), block) < 2e-4);
  CHECK(difference(logits(tiny(), blocks, "kvlink:n=0"), block) < 2e-4);
  CHECK(difference(logits(tiny(), blocks, "turborag"), logits(tiny(), blocks, "local")) == 0);
  CHECK(difference(logits(tiny(), blocks, "turborag:positions=reordered"), block) == 0);
  CHECK(difference(full, block) > 0.01);  // or the others say nothing
  const prompt one = blocks_of({25});
  for (const std::string& plan : all_plans)
    if (plan.find("superposition") == std::string::npos) CHECK(difference(logits(tiny(), one, plan), logits(tiny(), one, "full")) < 2e-4);
  const prompt two = blocks_of({9, 25});  // one block before the rest: nothing to put elsewhere
  for (const char* plan : {"block", "local", "prefixed", "promptcache", "pcw", "superposition", "ape", "epic", "kvlink"})
    CHECK(difference(logits(tiny(), two, plan), logits(tiny(), two, "full")) < 2e-4);
}

TEST_CASE("APE with T = S = 1 is plain parallel encoding, and its scaling matters otherwise", "[plans][laws]") {
  const prompt blocks = blocks_of({9, 21, 14, 12});
  // Plain parallel encoding by hand: contexts behind the prefix, all at its end, the rest behind the longest.
  const model& m = tiny();
  kv_tail prefix(m.kv(), 9);
  (void)m.forward({blocks[0], 0, {}, hidden_rows::none}, prefix);
  std::vector<placed_block> placed = {{prefix.finish(), 0}};
  const std::vector<placed_block> before = placed;
  for (std::size_t i = 1; i < 3; ++i) {
    kv_tail tail(m.kv(), static_cast<index_t>(blocks[i].size()));
    (void)m.forward({blocks[i], 9, before, hidden_rows::none}, tail);
    placed.push_back({tail.finish(), 9, true});
  }
  kv_tail tail(m.kv());
  const auto plain = m.logits(m.forward({blocks[3], 9 + 21, placed, hidden_rows::last}, tail));
  CHECK(difference(logits(m, blocks, "ape:T=1,S=1"), plain) < 2e-4);
  CHECK(difference(logits(m, blocks, "ape:T=1.00001,S=1"), plain) < 1e-2);  // the other path of the code, next to it
  CHECK(difference(logits(m, blocks, "ape:T=0.5,S=0.7"), plain) > 1e-2);
}

TEST_CASE("Prompt Cache: a schema's positions", "[plans][schema]") {
  const std::vector<token_id> a(10, 5), b(4, 6), c(7, 7), d(3, 8);
  const prompt_schema schema({{"a", a}, {"b", b, "u"}, {"c", c, "u"}, {"d", d}, {"e", d, {}, {}, 40}}, 100);
  CHECK(schema.start("a") == 0);
  CHECK(schema.start("b") == 10);  // members of a union share one start
  CHECK(schema.start("c") == 10);
  CHECK(schema.start("d") == 17);  // behind its longest
  CHECK(schema.start("e") == 40);
  CHECK(schema.end() == 43);
  const schema_prompt made = schema.select({"d", "b"}, {}, {1, 2});
  CHECK(made.blocks == prompt{b, d, {1, 2}});  // in the schema's order
  CHECK(made.layout->starts == std::vector<index_t>{10, 17});
  CHECK(made.layout->end == 43);
  CHECK_THROWS_WITH(schema.select({"b", "c"}, {}, {1}), Catch::Contains("one union"));
  CHECK_THROWS_WITH(schema.select({"x"}, {}, {1}), Catch::Contains("no module 'x'") && Catch::Contains("a, b, c"));
  CHECK_THROWS_WITH(schema.select({"a"}, {}, {}), Catch::Contains("empty"));
  CHECK_THROWS_WITH(prompt_schema({{"a", a}, {"b", b, {}, {}, 9}}, 100), Catch::Contains("overlap"));
  CHECK_THROWS_WITH(prompt_schema({{"a", a}, {"b", b}}, 13), Catch::Contains("ends at 14") && Catch::Contains("13"));
  CHECK_THROWS_WITH(prompt_schema({{"a", a}, {"a", b}}, 100), Catch::Contains("named 'a'"));
  CHECK_THROWS_WITH(prompt_schema({{"a", {}}}, 100), Catch::Contains("no tokens"));
  CHECK_THROWS_WITH(prompt_schema({{"a", a, {}, {{"p", 8, 3}}}}, 100), Catch::Contains("parameter 'p'"));
}

TEST_CASE("Prompt Cache: a schema's prompt is blocks at its positions, with arguments in place of parameters", "[plans][schema]") {
  const prompt blocks = blocks_of({10, 8, 12, 6});
  const model& m = tiny();
  const auto plan_of = [](const schema_prompt& p) {
    attention_plan plan;
    plan.method = prompt_cache_plan{schema_placement::schema, 0, p.layout};
    return plan;
  };
  const prompt_schema schema({{"s", blocks[0]}, {"gap", std::vector<token_id>(5, 9)}, {"m", blocks[1], {}, {{"who", 3, 2}}}, {"n", blocks[2]}}, 200);
  const schema_prompt made = schema.select({"s", "m", "n"}, {{"m", "who", {11, 12}}}, blocks[3]);
  // By hand: module m at 15, its tokens 3 and 4 not seen, the argument there instead, which sees what lies before it.
  std::vector<placed_block> placed = {{m.encode(blocks[0]), 0}};
  placed.push_back({m.encode(blocks[1]), 15, false, 15.0, 0, 3});
  placed.push_back({placed[1].block, 20, false, 15.0, 5, 3});
  placed.push_back({m.encode(blocks[2]), 23});
  kv_tail tail(m.kv());
  const std::vector<token_id> argument = {11, 12};
  (void)m.forward({argument, 18, placed, hidden_rows::none}, tail);
  const auto by_hand = m.logits(m.forward({blocks[3], 35, placed, hidden_rows::last}, tail));
  CHECK(difference(session(m).logits_of_ids(made.blocks, plan_of(made)), by_hand) < 2e-4);
  CHECK_THROWS_WITH(schema.select({"m"}, {{"m", "who", {1, 2, 3}}}, {1}), Catch::Contains("room for 2"));
  CHECK_THROWS_WITH(schema.select({"m"}, {{"m", "what", {1}}}, {1}), Catch::Contains("no such parameter"));
  CHECK_THROWS_WITH(schema.select({"s"}, {{"m", "who", {1}}}, {1}), Catch::Contains("isn't selected"));
  CHECK_THROWS_WITH(session(m).logits_of_ids(blocks_of({3, 3}), plan_of(made)), Catch::Contains("3 modules"));
}

TEST_CASE("Prompt Cache keeps a copy for each start, Block-Attention one", "[plans][laws]") {
  prompt blocks = blocks_of({9, 20, 20, 20, 12});
  const auto of_orders = [&](std::string_view plan) {
    const auto cache = std::make_shared<block_cache>(std::size_t{16} << 20);
    prompt turned = blocks;
    for (int i = 0; i < 3; ++i) {
      (void)logits(tiny(), turned, plan, cache);
      std::rotate(turned.begin() + 1, turned.begin() + 2, turned.end() - 1);
    }
    return cache->stats().blocks;
  };
  CHECK(of_orders("block") == 1 + 3);
  CHECK(of_orders("promptcache") == 1 + 3 * 3);
  CHECK(of_orders("promptcache:align=left") == 1 + 3);
}

TEST_CASE("PCW: windows by hand", "[plans][laws]") {
  const prompt blocks = blocks_of({6, 11, 8, 7});
  const model& m = tiny();
  const auto window = [&](std::size_t i) {
    std::vector<token_id> ids = blocks[i];
    ids.insert(ids.begin(), 0);
    return m.encode(ids);
  };
  for (const bool right : {false, true}) {
    std::vector<placed_block> placed;
    for (std::size_t i = 0; i < 3; ++i) {
      const auto encoded = window(i);
      const index_t start = right ? 12 - encoded->tokens() : 0, dropped = i == 0 ? 0 : 1;
      placed.push_back({encoded, start + dropped, false, static_cast<double>(start), dropped});
    }
    kv_tail tail(m.kv());
    const auto by_hand = m.logits(m.forward({blocks[3], 12, placed, hidden_rows::last}, tail));
    CHECK(difference(logits(m, blocks, right ? "pcw:align=right,bos=0" : "pcw:bos=0"), by_hand) < 2e-4);
  }
}

TEST_CASE("Superposition: equilibrium, pruning, and paths that don't see each other", "[plans][laws]") {
  const std::vector<index_t> lengths = {10, 40};
  CHECK(superposition_plan::equilibrium(lengths) == Approx(16));  // the harmonic mean
  const prompt blocks = blocks_of({9, 21, 14, 30, 12});
  prompt turned = blocks;
  std::swap(turned[1], turned[3]);
  CHECK(difference(logits(tiny(), turned, "superposition:k=0"), logits(tiny(), blocks, "superposition:k=0")) < 2e-4);  // paths are a set
  CHECK(difference(logits(tiny(), blocks, "superposition:k=1"), logits(tiny(), blocks, "superposition:k=0")) > 1e-3);
  CHECK(difference(logits(tiny(), blocks, "superposition:k=3"), logits(tiny(), blocks, "superposition:k=0")) == 0);
  // A fixed span makes documents reusable beside others.
  const auto cache = std::make_shared<block_cache>(std::size_t{16} << 20);
  generation_result result;
  (void)logits(tiny(), blocks, "superposition:span=25", cache);
  (void)logits(tiny(), {blocks[0], blocks[2], blocks[1], blocks[4]}, "superposition:span=25", cache, &result);
  CHECK(result.blocks.encoded == 0);
  (void)logits(tiny(), {blocks[0], blocks[2], blocks[1], blocks[4]}, "superposition", cache, &result);
  CHECK(result.blocks.encoded == 2);
}

TEST_CASE("operations are those of the shapes", "[plans][operations]") {
  const prompt blocks = blocks_of({10, 20, 5});
  generation_result full, hit;
  const auto cache = std::make_shared<block_cache>(std::size_t{16} << 20);
  (void)logits(tiny(), blocks, "full", cache, &full);
  (void)logits(tiny(), blocks, "block", cache);
  (void)logits(tiny(), blocks, "block", cache, &hit);
  constexpr index_t d = tiny_model::width, h = tiny_model::heads * tiny_model::head_dim, kv = tiny_model::kv_heads * tiny_model::head_dim, f = tiny_model::feed_forward;
  const index_t vocabulary = tiny().config().vocabulary;
  const auto expected = [&](index_t tokens, index_t before) {
    // The last layer's queries, output and feed-forward are computed for the last token alone.
    const index_t project = 2 * tokens * d * (h + 2 * kv), mix = 2 * (d * h + 3 * d * f);
    index_t pairs = 0;
    for (index_t t = 1; t <= tokens; ++t) pairs += before + t;
    return 2 * project + (tokens + 1) * mix + 4 * h * (pairs + before + tokens) + 2 * d * vocabulary;
  };
  CHECK(full.operations == expected(35, 0));
  CHECK(hit.operations == expected(5, 30));
}

TEST_CASE("a conversation goes on after any plan, with generated tokens at the plan's positions", "[plans][laws]") {
  const prompt blocks = blocks_of({9, 21, 14, 12});
  for (const std::string& plan : all_plans) {
    INFO(plan);
    if (plan.find("task=3") != std::string::npos) continue;  // the task is counted from the end
    prompt longer = blocks;
    longer.back().push_back(33);
    session s(tiny());
    (void)s.logits_of_ids(blocks, parse_plan(plan));
    const auto continued = s.logits_of_ids({{33}});
    CHECK(difference(continued, logits(tiny(), longer, plan)) < (plan.find("superposition") == std::string::npos ? 2e-4 : 10.0));
    if (parse_plan(plan).is_method()) CHECK_THROWS_WITH(s.logits_of_ids(blocks, parse_plan(plan)), Catch::Contains("earlier turns"));
  }
}

TEST_CASE("plans as text", "[plans][text]") {
  CHECK(std::get<epic_plan>(parse_plan("epic:k=8").method).k == 8);
  const auto ape = std::get<adaptive_parallel_plan>(parse_plan("ape:T=0.5,S=0.75,max_blocks=4").method);
  CHECK(ape.temperature == 0.5F);
  CHECK(ape.scale == 0.75F);
  CHECK(parse_plan("ape:max_blocks=4").max_blocks == 4);
  CHECK(parse_plan("block:rotation=keys,global_blocks=3").rotate == rotation::keys);
  CHECK(parse_plan("full").mode == attention_mode::full);
  for (const plan_description& d : plan_descriptions) {
    const attention_plan plan = parse_plan(d.name);
    if (d.name != "turborag") CHECK(plan.name() == d.name);
    CHECK(plan.exact() == (d.name != "epic" && d.name != "cacheblend"));
  }
  const std::vector<std::pair<const char*, const char*>> bad = {
      {"blok", "no plan 'blok'; there are: full, block, local"}, {"", "no plan ''"}, {"epic:q=1", "has no option 'q'; allowed: k=N"}, {"epic:k=-1", "k=-1; allowed: 0"},
      {"epic:k=1x", "k=1x"}, {"epic:k", "isn't key=value"}, {"epic:k=1,k=2", "given twice"}, {"pcw:align=middle", "allowed: left, right"}, {"full:max_blocks=2", "allowed: none"},
      {"ape:T=0", "T=0; allowed: 0.01"}, {"ape:T=nan", "T=nan"}, {"cacheblend:ratio=1.5", "allowed: 0 to 1"}, {"block:global_blocks=0", "allowed: 1"}};
  for (const auto& [text, message] : bad) CHECK_THROWS_WITH(parse_plan(text), Catch::Contains(message));
}

TEST_CASE("what a plan can't do is said, and leaves the session as it was", "[plans][errors]") {
  const prompt blocks = blocks_of({9, 21, 14, 12});
  session s(tiny());
  const std::vector<std::pair<const char*, const char*>> bad = {{"promptcache:slot=20", "at least 21"}, {"cacheblend:check=2", "layers 0 to 1"}, {"kvlink:n=9,token=100000", "vocabulary has"},
                                                                {"superposition:task=12", "nothing of the 12 tokens"}, {"pcw:bos=1000000", "token 1000000"}, {"promptcache:slot=300", "context has 512"}};
  for (const auto& [plan, message] : bad) {
    CHECK_THROWS_WITH(s.logits_of_ids(blocks, parse_plan(plan)), Catch::Contains(message));
    CHECK(s.position() == 0);
  }
  model_config windows = tiny().config(), blind = tiny().config();
  windows.positions[1].window = 8;
  blind.positions[1].rope = -1;
  for (const char* plan : {"local", "promptcache", "pcw", "superposition", "ape"}) {
    CHECK_THROWS_WITH(check_plan(parse_plan(plan), windows), Catch::Contains("sliding windows"));
    CHECK_THROWS_WITH(check_plan(parse_plan(plan), blind), Catch::Contains("no positions"));
  }
  for (const char* plan : {"full", "block", "prefixed", "epic", "cacheblend", "kvlink"}) CHECK_NOTHROW(check_plan(parse_plan(plan), windows));
}
