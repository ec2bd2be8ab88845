// blockattn_bench: pp and tg as llama-bench measures them; `ttft`, time to first token with all passages cached; `plans`, `quality` and `game`.
#include <exception>
#include <iostream>

#include "arguments.hpp"
#include "game.hpp"
#include "plans.hpp"
#include "quality.hpp"
#include "report.hpp"
#include "speed.hpp"
#include "ttft.hpp"

int main(int count, char** arguments) {
  namespace bench = blockattn_bench;
  CLI::App app("Measures prompt processing (pp), text generation (tg), with 'ttft' the time to first token, and\nwith 'quality' what types of keys and values cost.",
               "blockattn_bench");
  app.footer(
      "Examples:\n  blockattn_bench -m model.gguf -p 512,2048 -n 64 -t 2 -r 3 -o json\n  blockattn_bench ttft -m "
      "model.gguf --lengths 512,1024,2048,4096,8192 --query 50");
  bench::bench_options shared, ttft_shared, game_shared, quality_shared, plans_shared;
  bench::speed_options speed;
  bench::ttft_options ttft;
  bench::game_options game;
  bench::quality_options quality;
  bench::plans_options plans;
  bench::add_shared(app, shared);
  bench::add_speed(app, speed);
  ttft_shared.repetitions = game_shared.repetitions = plans_shared.repetitions = 3;
  const auto add = [&](const char* name, const char* about, bench::bench_options& common, auto& own, auto add_own) -> CLI::App& {
    CLI::App& sub = *app.add_subcommand(name, about);
    bench::add_shared(sub, common);
    add_own(sub, own);
    sub.preparse_callback([&](std::size_t) { app.get_option("--model")->required(false); });  // given after the name
    return sub;
  };
  const CLI::App& ttft_app = add("ttft", "Time to first token: full attention against all passages cached", ttft_shared, ttft, bench::add_ttft);
  const CLI::App& game_app = add("game", "A frame of a game: a JSON state of which little changed", game_shared, game, bench::add_game);
  const CLI::App& quality_app = add("quality", "Perplexity and divergence by type of keys and values", quality_shared, quality, bench::add_quality);
  const CLI::App& plans_app = add("plans", "Operations, time to first token and bytes of attention plans", plans_shared, plans, bench::add_plans);
  bench::remember_command(count, arguments);
  try {
    app.parse(count, arguments);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  try {
    if (game_app.parsed())
      bench::run_game(game_shared, game, std::cout);
    else if (ttft_app.parsed())
      bench::run_ttft(ttft_shared, ttft, std::cout);
    else if (plans_app.parsed())
      bench::run_plans(plans_shared, plans, std::cout);
    else if (quality_app.parsed())
      bench::run_quality(quality_shared, quality, std::cout);
    else
      bench::run_speed(shared, speed, std::cout);
    return std::cout.flush() ? 0 : 1;
  } catch (const std::exception& e) {
    std::cerr << "blockattn_bench: " << e.what() << std::endl;
    return 1;
  }
}
