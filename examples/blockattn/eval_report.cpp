#include "eval_report.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "blockattn/core/error.hpp"

namespace blockattn_command {
namespace {

using blockattn::cat;

double rounded(double value) { return std::round(value * 100) / 100; }

template <class Number>
double mean_of(const std::vector<eval_answer>& answers, Number eval_answer::*member) {
  double sum = 0;
  for (const eval_answer& a : answers) sum += static_cast<double>(a.*member);
  return answers.empty() ? 0 : sum / static_cast<double>(answers.size());
}

double median_of(const std::vector<eval_answer>& answers, double eval_answer::*member) {
  std::vector<double> values;
  for (const eval_answer& a : answers) values.push_back(a.*member);
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

interval accuracy(const eval_row& row) {
  std::vector<double> hits;
  for (const eval_answer& a : row.answers) hits.push_back(a.hit ? 1 : 0);
  return with_interval(hits);
}

interval difference(const eval_row& row, const eval_row& from) {
  std::vector<double> values;
  for (std::size_t i = 0; i < std::min(row.answers.size(), from.answers.size()); ++i)
    values.push_back((row.answers[i].hit ? 1.0 : 0.0) - (from.answers[i].hit ? 1.0 : 0.0));
  return with_interval(values);
}

std::string label_of(const eval_row& row) {
  const eval_configuration& c = row.configuration;
  std::string label = c.plan;
  if (c.passages != 10) label += cat(" p", c.passages);
  if (c.global_blocks != 1) label += cat(" g", c.global_blocks);
  if (c.kv != "default") label += " " + c.kv;
  return label;
}

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) result += c == '<' ? "&lt;" : c == '&' ? "&amp;" : c == '>' ? "&gt;" : std::string(1, c);
  return result;
}

json answer_json(const std::string& configuration, std::size_t question, const eval_answer& a) {
  return {{"configuration", configuration}, {"question", question},   {"text", a.text},
          {"hit", a.hit},                   {"flops", a.flops},       {"flops_first", a.flops_first},
          {"ttft_ms", a.ttft_ms},           {"ttft_first_ms", a.ttft_first_ms},
          {"prompt_tokens", a.prompt_tokens}, {"bytes", a.bytes}};
}

}  // namespace

interval with_interval(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  if (values.empty()) return {};
  double sum = 0, squares = 0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {100 * mean, n > 1 ? 196 * std::sqrt(squares / (n - 1) / n) : 0};
}

std::string eval_configuration::key() const {
  return cat(plan, "|passages=", passages, "|global_blocks=", global_blocks, "|kv=", kv, "|adapter=", adapter);
}

json rows_json(const std::vector<eval_row>& rows) {
  json result = json::array();
  for (const eval_row& row : rows) {
    const eval_configuration& c = row.configuration;
    const interval em = accuracy(row), to_first = difference(row, rows.front());
    result.push_back({{"plan", c.plan},
                      {"best_subspan_em", rounded(em.value)},
                      {"n", row.answers.size()},
                      {"interval", rounded(em.half)},
                      {"difference", {{"to", rows.front().configuration.plan}, {"value", rounded(to_first.value)}, {"interval", rounded(to_first.half)}}},
                      {"passages", c.passages},
                      {"global_blocks", c.global_blocks},
                      {"kv", c.kv},
                      {"adapter", c.adapter},
                      {"kind", c.exact ? "exact" : "approximate"},
                      {"flops", mean_of(row.answers, &eval_answer::flops)},
                      {"flops_first", mean_of(row.answers, &eval_answer::flops_first)},
                      {"ttft_ms", rounded(median_of(row.answers, &eval_answer::ttft_ms))},
                      {"ttft_first_ms", rounded(median_of(row.answers, &eval_answer::ttft_first_ms))},
                      {"prompt_tokens", rounded(mean_of(row.answers, &eval_answer::prompt_tokens))},
                      {"bytes", mean_of(row.answers, &eval_answer::bytes)}});
  }
  return result;
}

std::string rows_table(const std::vector<eval_row>& rows) {
  char line[300];
  std::snprintf(line, sizeof line, "%-34s %8s %6s %8s %7s %10s %10s %10s %6s\n", "plan", "em %", "±", "to first", "±", "GFLOP", "ttft ms", "MB", "n");
  std::string result = line;
  for (const eval_row& row : rows) {
    const interval em = accuracy(row), to_first = difference(row, rows.front());
    std::snprintf(line, sizeof line, "%-34s %8.1f %6.1f %8.1f %7.1f %10.2f %10.1f %10.2f %6zu\n", label_of(row).c_str(), em.value, em.half,
                  to_first.value, to_first.half, mean_of(row.answers, &eval_answer::flops) / 1e9,
                  median_of(row.answers, &eval_answer::ttft_ms), mean_of(row.answers, &eval_answer::bytes) / 1e6, row.answers.size());
    result += line;
  }
  return result;
}

std::string rows_svg(const std::vector<eval_row>& rows) {
  constexpr double left = 60, right = 620, top = 20, bottom = 340;
  double least = 1e300, most = 0, highest = 10;
  for (const eval_row& row : rows) {
    const double flops = std::max(mean_of(row.answers, &eval_answer::flops), 1.0);
    least = std::min(least, std::log10(flops));
    most = std::max(most, std::log10(flops));
    highest = std::max(highest, accuracy(row).value + accuracy(row).half);
  }
  const double first = std::floor(least), last = std::max(std::ceil(most), first + 1), high = std::ceil(highest / 10) * 10;
  const auto x = [&](double log) { return left + (log - first) / (last - first) * (right - left); };
  const auto y = [&](double value) { return bottom - value / high * (bottom - top); };
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"840\" height=\"390\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  for (double value = 0; value <= high; value += 10)
    svg += cat("<line x1=\"", left, "\" x2=\"", right, "\" y1=\"", y(value), "\" y2=\"", y(value), "\" stroke=\"#ddd\"/><text x=\"", left - 8, "\" y=\"", y(value) + 4,
               "\" text-anchor=\"end\">", value, "</text>\n");
  for (double log = first; log <= last; ++log)
    svg += cat("<line x1=\"", x(log), "\" x2=\"", x(log), "\" y1=\"", top, "\" y2=\"", bottom, "\" stroke=\"#eee\"/><text x=\"", x(log), "\" y=\"", bottom + 16,
               "\" text-anchor=\"middle\">1e", log, "</text>\n");
  svg += cat("<text x=\"", (left + right) / 2, "\" y=\"", bottom + 36, "\" text-anchor=\"middle\">FLOP to the first token, all cached</text>\n<text transform=\"translate(16,",
             (top + bottom) / 2, ") rotate(-90)\" text-anchor=\"middle\">best_subspan_em, %</text>\n");
  for (const eval_row& row : rows) {
    const interval em = accuracy(row);
    const double at = x(std::log10(std::max(mean_of(row.answers, &eval_answer::flops), 1.0)));
    const char* colour = row.configuration.exact ? "#1565c0" : "#c62828";
    svg += cat("<line x1=\"", at, "\" x2=\"", at, "\" y1=\"", y(std::max(em.value - em.half, 0.0)), "\" y2=\"", y(em.value + em.half), "\" stroke=\"", colour, "\"/><circle cx=\"", at,
               "\" cy=\"", y(em.value), "\" r=\"4\" fill=\"", colour, "\"/><text x=\"", at + 7, "\" y=\"", y(em.value) + 4, "\">", escaped(label_of(row)), "</text>\n");
  }
  return svg + "</svg>\n";
}

eval_state::eval_state(std::string file, const std::string& setup) : file_(std::move(file)) {
  if (file_.empty()) return;
  read(setup);
  descriptor_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw blockattn::io_error(cat("[eval] ", file_, ": can't write: ", std::strerror(errno), ". Choose another --state."));
  if (::lseek(descriptor_, 0, SEEK_END) == 0) append({{"setup", setup}});
}

eval_state::~eval_state() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void eval_state::read(const std::string& setup) {
  std::ifstream in(file_, std::ios::binary);
  if (!in) return;
  const std::string content(std::istreambuf_iterator<char>(in), {});
  const std::size_t whole = content.rfind('\n') == std::string::npos ? 0 : content.rfind('\n') + 1;
  if (whole < content.size() && ::truncate(file_.c_str(), static_cast<off_t>(whole)) != 0)
    throw blockattn::io_error(cat("[eval] ", file_, ": can't drop its last, unfinished line: ", std::strerror(errno)));
  std::size_t number = 0;
  for (std::size_t at = 0; at < whole;) {
    const std::size_t end = content.find('\n', at);
    const auto row = json::parse(std::string_view(content).substr(at, end - at), nullptr, false);
    ++number;
    at = end + 1;
    try {
      if (number == 1 && row.at("setup") != setup)
        throw blockattn::argument_error(cat("[eval] ", file_, ": answers of another evaluation (", row.at("setup").get<std::string>(), "; this one: ", setup,
                                            "). Choose another --state, or delete the file."));
      if (number == 1) continue;
      answers_[{row.at("configuration"), row.at("question")}] = {row.at("text"),    row.at("hit"),           row.at("flops"),         row.at("flops_first"),
                                                                 row.at("ttft_ms"), row.at("ttft_first_ms"), row.at("prompt_tokens"), row.at("bytes")};
    } catch (const json::exception&) {
      throw blockattn::format_error(cat("[eval] ", file_, ", line ", number, ": not a line of an evaluation. Choose another --state, or delete the file."));
    }
  }
}

void eval_state::append(const json& line) {
  const std::string text = line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  if (::write(descriptor_, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw blockattn::io_error(cat("[eval] ", file_, ": can't write: ", std::strerror(errno), ". Is the disk full?"));
}

const eval_answer* eval_state::find(const std::string& configuration, std::size_t question) const {
  const auto found = answers_.find({configuration, question});
  return found == answers_.end() ? nullptr : &found->second;
}

void eval_state::keep(const std::string& configuration, std::size_t question, const eval_answer& answer) {
  if (descriptor_ >= 0) append(answer_json(configuration, question, answer));
  answers_[{configuration, question}] = answer;
}

}  // namespace blockattn_command
