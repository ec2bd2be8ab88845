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
  bench::bench_options shared;
  bench::bench_options ttft_shared;
  bench::speed_options speed;
  bench::ttft_options ttft;
  bench::bench_options game_shared;
  bench::game_options game;
  game_shared.repetitions = 3;
  bench::bench_options quality_shared;
  bench::quality_options quality;
  ttft_shared.repetitions = 3;
  CLI::App& ttft_app = *app.add_subcommand("ttft", "Time to first token: full attention against all passages cached");
  bench::add_shared(app, shared);
  bench::add_speed(app, speed);
  bench::add_shared(ttft_app, ttft_shared);
  bench::add_ttft(ttft_app, ttft);
  CLI::App& game_app = *app.add_subcommand("game", "A frame of a game: a JSON state of which little changed");
  bench::add_shared(game_app, game_shared);
  bench::add_game(game_app, game);
  game_app.preparse_callback([&](std::size_t) { app.get_option("--model")->required(false); });
  CLI::App& quality_app = *app.add_subcommand("quality", "Perplexity and divergence by type of keys and values");
  bench::add_shared(quality_app, quality_shared);
  bench::add_quality(quality_app, quality);
  quality_app.preparse_callback([&](std::size_t) { app.get_option("--model")->required(false); });
  ttft_app.preparse_callback([&](std::size_t) { app.get_option("--model")->required(false); });  // given after 'ttft'
  bench::bench_options plans_shared;
  bench::plans_options plans;
  plans_shared.repetitions = 3;
  CLI::App& plans_app = *app.add_subcommand("plans", "Operations, time to first token and bytes of attention plans");
  bench::add_shared(plans_app, plans_shared);
  bench::add_plans(plans_app, plans);
  plans_app.preparse_callback([&](std::size_t) { app.get_option("--model")->required(false); });
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
