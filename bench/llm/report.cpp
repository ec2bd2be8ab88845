#include "report.hpp"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <map>
#include <numeric>
#include <ostream>

#include "blockattn/version.hpp"

namespace blockattn_bench {
namespace {

std::string command_line;

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name"))
      if (const auto colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "unknown";
}

std::string now() {
  const std::time_t time = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&time, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::uint64_t tensor_bytes(const blockattn::model& model) {
  std::uint64_t bytes = 0;
  for (const auto& t : model.file().tensors()) bytes += t.bytes.size();
  return bytes;
}

std::int64_t parameters(const blockattn::model& model) {
  std::int64_t sum = 0;
  for (const auto& t : model.file().tensors())
    sum += std::accumulate(t.shape.begin(), t.shape.end(), std::int64_t{1},
                           [](std::int64_t a, blockattn::index_t b) { return a * b; });
  return sum;
}

/// The type that holds the most bytes, in capitals as in file names.
std::string main_type(const blockattn::model& model) {
  std::map<blockattn::dtype, std::uint64_t> bytes;
  for (const auto& t : model.file().tensors()) bytes[t.type] += t.bytes.size();
  auto most = bytes.begin();
  for (auto it = bytes.begin(); it != bytes.end(); ++it)
    if (it->second > most->second) most = it;
  std::string text = most == bytes.end() ? "?" : name(most->first);
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

statistic summarise(const std::vector<double>& samples) {
  if (samples.empty()) return {};
  const auto count = static_cast<double>(samples.size());
  const double mean = std::accumulate(samples.begin(), samples.end(), 0.0) / count;
  double squares = 0;
  for (const double s : samples) squares += (s - mean) * (s - mean);
  return {mean, samples.size() < 2 ? 0 : std::sqrt(squares / (count - 1))};
}

void remember_command(int count, char** arguments) {
  command_line.clear();
  for (int i = 0; i < count; ++i) command_line += (i == 0 ? "" : " ") + std::string(arguments[i]);
}

std::string model_name(const blockattn::model& model) {
  const std::string label(model.file().string("general.size_label").value_or("?B"));
  return model.config().architecture + " " + label + " " + main_type(model);
}

json common_row(const blockattn::model& model, const bench_options& options, int threads) {
  return {{"build", std::string("blockattn ") + blockattn::version_string},
          {"command", command_line},
          {"cpu_info", cpu_name()},
          {"backend", "CPU"},
          {"isa", std::string(name(model.level()))},
          {"precision", options.precision},
          {"model", model_name(model)},
          {"model_filename", options.model},
          {"model_size", tensor_bytes(model)},
          {"model_n_params", parameters(model)},
          {"type_k", name(model.kv().types.keys)},
          {"type_v", name(model.kv().types.values)},
          {"n_threads", threads},
          {"test_time", now()}};
}

markdown_table::markdown_table(std::ostream& out, const std::vector<std::string>& header, std::vector<int> widths,
                               std::string alignment)
    : out_(&out), widths_(std::move(widths)), alignment_(std::move(alignment)) {
  row(header);
  for (std::size_t i = 0; i < widths_.size(); ++i)
    *out_ << "| " << std::string(static_cast<std::size_t>(widths_[i] - 1), '-') << (alignment_[i] == 'r' ? ':' : '-')
          << ' ';
  *out_ << "|" << std::endl;
}

void markdown_table::row(const std::vector<std::string>& cells) {
  for (std::size_t i = 0; i < cells.size(); ++i) {
    // The plus-minus sign has two bytes and one column.
    const int extra = cells[i].find("\xc2\xb1") == std::string::npos ? 0 : 1;
    *out_ << format(alignment_[i] == 'r' ? "| %*s " : "| %-*s ", widths_[i] + extra, cells[i].c_str());
  }
  *out_ << "|" << std::endl;
}

std::string format(const char* pattern, ...) {
  char text[400];
  std::va_list values;
  va_start(values, pattern);
  std::vsnprintf(text, sizeof(text), pattern, values);
  va_end(values);
  return text;
}

}  // namespace blockattn_bench
