// `blockattn eval`: a question set over plans, passages, global blocks, KV types and adapters.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <optional>

#include "adapters.hpp"
#include "blockattn/generate/plans/plan_text.hpp"
#include "commands.hpp"
#include "engine.hpp"
#include "eval_questions.hpp"
#include "eval_report.hpp"

namespace blockattn_command {
namespace {

namespace fs = std::filesystem;
using blockattn::cat;
using clock_type = std::chrono::steady_clock;

/// "412/940 answers, 12 min left" on standard error: redrawn on a terminal, a line a minute elsewhere.
class eval_progress {
 public:
  explicit eval_progress(std::size_t total) : total_(total) {}

  void step(bool computed) {
    ++done_;
    if (!computed) return;
    ++computed_;
    const auto now = clock_type::now();
    if (now < next_ && done_ < total_) return;
    next_ = now + (terminal_ ? std::chrono::milliseconds(500) : std::chrono::milliseconds(60'000));
    const double seconds = std::chrono::duration<double>(now - start_).count() / static_cast<double>(computed_) * static_cast<double>(total_ - done_);
    char line[120];
    std::snprintf(line, sizeof line, "%s%zu/%zu answers, %.0f %s left%s", terminal_ ? "\r" : "", done_, total_, seconds < 120 ? seconds : seconds / 60,
                  seconds < 120 ? "s" : "min", terminal_ && done_ < total_ ? "   " : "\n");
    std::cerr << line << std::flush;
  }

 private:
  std::size_t total_, done_ = 0, computed_ = 0;
  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  clock_type::time_point start_ = clock_type::now(), next_ = start_;
};

/// The questions that come with the program, for --check.
std::string shipped_questions() {
  for (const fs::path& folder : adapter_folders())
    for (const char* name : {"questions_check.jsonl", "examples/questions_check.jsonl"})
      if (const fs::path file = folder.parent_path() / name; fs::is_regular_file(file)) return file.string();
  throw blockattn::io_error("[eval] questions_check.jsonl, which comes with the program, isn't there. Give --questions.");
}

std::string read_whole(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(in), {});
  if (!in) throw blockattn::io_error(cat("[eval] ", file, ": can't read. Check the path."));
  return text;
}

/// One model with its KV type and adapter, and the rows that it answers for.
class evaluation {
 public:
  evaluation(const eval_options& options, std::vector<eval_question> questions)
      : options_(options), questions_(std::move(questions)), state_(options.state, setup()) {
    pool_.add(questions_);
    if (!options_.pool.empty()) pool_.add(read_questions(options_.pool));
    if (options_.limit > 0 && static_cast<std::size_t>(options_.limit) < questions_.size()) questions_.resize(static_cast<std::size_t>(options_.limit));
    if (!options_.chat_template.empty()) template_ = blockattn::chat_template::from_source(read_whole(options_.chat_template), {}, options_.chat_template);
    add_rows();
  }

  /// Every question under every configuration; ended early by Ctrl-C, what is answered by then stands.
  void run() {
    eval_progress progress(rows_.size() * questions_.size());
    for (eval_row& row : rows_) {
      open(row.configuration);
      for (std::size_t i = 0; i < questions_.size() && !interrupt_guard::interrupted(); ++i) {
        const std::string key = row.configuration.key();
        const eval_answer* known = state_.find(key, i);
        if (known == nullptr) {
          const std::optional<eval_answer> made = answer(row.configuration, i);
          if (!made) return;
          state_.keep(key, i, *made);
          known = state_.find(key, i);
          progress.step(true);
        } else {
          progress.step(false);
        }
        row.answers.push_back(*known);
      }
    }
  }

  [[nodiscard]] const std::vector<eval_row>& rows() const { return rows_; }

 private:
  [[nodiscard]] std::string setup() const {
    return cat(fs::path(options_.model.path).filename().string(), ", ", questions_.size(), " questions, seed ", options_.seed, ", ", options_.tokens, " tokens, ",
               options_.model.precision, options_.pool.empty() ? "" : ", pool " + fs::path(options_.pool).filename().string(), lora(),
               options_.chat_template.empty() ? "" : ", template " + fs::path(options_.chat_template).filename().string(), options_.system == default_system_message ? "" : ", system: " + options_.system);
  }

  /// --lora, by the files' names: an answer's key names those of --adapters only.
  [[nodiscard]] std::string lora() const {
    std::string names;
    for (const std::string& one : options_.model.lora) names += ", lora " + fs::path(one).filename().string();
    return names;
  }

  void add_rows() {
    const auto given = [](const auto& list, auto fallback) { return list.empty() ? decltype(list){fallback} : list; };
    for (const std::string& adapter : given(options_.adapters, std::string()))
      for (const std::string& kv : given(options_.kv_types, options_.model.kv))
        for (const int passages : options_.passages)
          for (const int global : options_.global_blocks)
            for (const std::string& plan : options_.plans) {
              const blockattn::attention_plan parsed = blockattn::parse_plan(plan);
              if (parsed.mode == blockattn::attention_mode::full && global != options_.global_blocks.front()) continue;  // the same again
              rows_.push_back({{plan, passages, global, kv, adapter, parsed.exact()}, {}});
            }
  }

  void open(const eval_configuration& c) {
    const std::string wanted = c.kv + "|" + c.adapter;
    if (opened_ && wanted == opened_as_) return;
    model_options model = options_.model;
    model.kv = c.kv;
    if (!c.adapter.empty()) model.lora = {c.adapter};
    opened_.emplace(open_adapted_model(model));
    if (opened_->by_default) note(cat("using ", fs::path(opened_->adapters.front()).filename().string(), "; --lora none: without it"));
    cache_ = make_cache(options_.model, opened_->model);
    chat_ = template_ ? *template_ : opened_->model.chat();
    opened_as_ = wanted;
  }

  [[nodiscard]] std::optional<eval_answer> answer(const eval_configuration& c, std::size_t number) {
    const eval_question& q = questions_[number];
    std::vector<std::string> passages;
    for (const passage& p : pool_.prompt_passages(q, c.passages, options_.seed, number)) passages.push_back(passage_text(p));
    blockattn::generation_options generation;
    generation.max_tokens = options_.tokens;
    generation.plan = plan_of(c);
    generation.stop = options_.stop;
    generation.cancelled = [] { return interrupt_guard::interrupted(); };
    const auto prompt = chat_->rag(options_.system, passages, q.question);
    const auto first = blockattn::session(opened_->model, cache_).generate(prompt, generation);
    generation.max_tokens = 1;
    const auto again = c.plan == "full" ? first : blockattn::session(opened_->model, cache_).generate(prompt, generation);
    if (interrupt_guard::interrupted()) return std::nullopt;
    return eval_answer{first.text,    contains_answer(first.text, q.answers), static_cast<double>(again.operations), static_cast<double>(first.operations), again.ttft_ms,
                       first.ttft_ms, first.prompt_tokens,                    first.block_bytes};
  }

  /// One object a plan, so that what a plan remembers (scores of documents) serves all questions.
  [[nodiscard]] blockattn::attention_plan plan_of(const eval_configuration& c) {
    auto found = plans_.find(c.key());
    if (found == plans_.end()) found = plans_.emplace(c.key(), blockattn::parse_plan(c.plan)).first;
    blockattn::attention_plan plan = found->second;
    if (c.global_blocks != 1) plan.global_blocks = c.global_blocks;
    return plan;
  }

  const eval_options& options_;
  std::vector<eval_question> questions_;
  passage_pool pool_;
  eval_state state_;
  std::vector<eval_row> rows_;
  std::optional<adapted_model> opened_;
  std::string opened_as_;
  std::shared_ptr<blockattn::block_cache> cache_;
  std::map<std::string, blockattn::attention_plan> plans_;
  std::optional<blockattn::chat_template> template_;  ///< of --template
  std::optional<blockattn::chat_template> chat_;      ///< of the open model
};

void write_text(const std::string& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out << text;
  if (!out.flush()) throw blockattn::io_error(cat("[eval] ", file, ": can't write. Check the path and the free space."));
}

/// Whether block mode loses at most 5 points, as one line and as JSON.
int report_check(const std::vector<eval_row>& rows, bool as_json) {
  const json table = rows_json(rows);
  const double full = table[0]["best_subspan_em"], block = table[1]["best_subspan_em"], loss = -table[1]["difference"]["value"].get<double>();
  const double half = table[1]["difference"]["interval"];
  const std::string verdict = full < 20 ? "can't tell" : loss <= 5 ? "yes" : "no";
  char line[300];
  std::snprintf(line, sizeof line, "block mode: %s. full %.1f %%, block %.1f %%, full - block %.1f +- %.1f points over %zu questions%s", verdict.c_str(), full, block, loss, half,
                rows[0].answers.size(), full < 20 ? "; the model answers too few even in full mode" : loss > 5 ? "; allowed: 5 points" : "");
  if (as_json)
    print_json({{"check", {{"usable", verdict == "yes"}, {"verdict", verdict}, {"loss", loss}, {"interval", half}}}, {"rows", table}});
  else
    std::cout << line << std::endl;
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, eval_options& options) {
  add_model(app, options.model);
  app.add_option("--questions", options.questions, "JSON Lines, gzip or not: question, answers, title, text")->type_name("FILE");
  app.add_option("--pool", options.pool, "A further file of questions, whose passages are distractors only")->type_name("FILE");
  app.add_option("--plan", options.plans, "NAME or NAME:key=value,...; may be given several times (default: full and block)")->allow_extra_args(false);
  app.add_option("--passages", options.passages, "Passages of a prompt, the one with the answer among them; several numbers")->check(CLI::Range(1, 1000))->allow_extra_args(false);
  app.add_option("--global-blocks", options.global_blocks, "The last N blocks see everything before them; several numbers")->check(CLI::Range(1, 1000))->allow_extra_args(false);
  app.add_option("--kv-types", options.kv_types, "Storage of keys and values (as --kv); may be given several times")->allow_extra_args(false);
  app.add_option("--adapters", options.adapters, "Adapters to compare (as --lora, none: the base); may be given several times")->allow_extra_args(false);
  app.add_option("--limit", options.limit, "Only the first N questions; 0: all")->check(CLI::Range(0, 1 << 30));
  app.add_option("-n,--tokens", options.tokens, "Most tokens of an answer")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--seed", options.seed, "Decides the place of the passage with the answer")->capture_default_str();
  app.add_option("--system", options.system, "System message")->type_name("TEXT");
  app.add_option("--template", options.chat_template, "Chat template (Jinja) in place of the model's own, for models that have none")->type_name("FILE");
  app.add_option("--stop", options.stop, "Text that ends an answer; may be given several times")->allow_extra_args(false);
  app.add_option("--state", options.state, "Keep answers there; a later run with the same file goes on from them")->type_name("FILE");
  app.add_option("--svg", options.svg, "Write a plot of accuracy over FLOPs")->type_name("FILE");
  app.add_flag("--check", options.check, "Say in one line whether this model may be used in block mode");
  add_common(app, options.common);
  app.footer("Example:\n  blockattn eval -m model.gguf --questions nq.jsonl --passages 10 --plan full --plan block --plan epic:k=16 --state nq.state --json");
}

int run_eval(const eval_options& given) {
  eval_options options = given;
  if (options.check) {
    options.plans = {"full", "block"};
    if (options.questions.empty()) options.questions = shipped_questions();
  }
  if (options.questions.empty()) throw blockattn::argument_error("[eval] no --questions FILE; --check alone uses the questions that come with the program");
  if (options.plans.empty()) options.plans = {"full", "block"};
  for (const std::string& plan : options.plans) (void)blockattn::parse_plan(plan);  // before anything is loaded
  return with_threads(options.common.threads, [&] {
    const interrupt_guard guard;
    evaluation all(options, read_questions(options.questions));
    all.run();
    const std::vector<eval_row>& rows = all.rows();
    const int status = interrupt_guard::interrupted() ? exit_interrupted : 0;
    if (rows.front().answers.empty()) return status;
    if (!options.svg.empty()) write_text(options.svg, rows_svg(rows));
    if (options.check && status == 0) return report_check(rows, options.common.json);
    if (options.common.json)
      print_json({{"model", options.model.path}, {"questions", options.questions}, {"seed", options.seed}, {"rows", rows_json(rows)}});
    else
      std::cout << rows_table(rows) << std::flush;
    return status;
  });
}

}  // namespace blockattn_command
