// `blockattn inspect`: metadata, tensors and sizes of a checkpoint. Nothing is computed, so unsupported families can be
// looked at too.
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "blockattn/io/gguf.hpp"
#include "blockattn/io/gguf_fingerprint.hpp"
#include "commands.hpp"
#include "json_output.hpp"
#include "terminal.hpp"

namespace blockattn_command {
namespace {

std::string mebibytes(std::uint64_t bytes) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

/// One line of at most `longest` characters, cut between UTF-8 characters.
std::string shortened(std::string text, std::size_t longest) {
  for (char& c : text)
    if (c == '\n' || c == '\t') c = ' ';
  if (text.size() <= longest) return text;
  std::size_t end = longest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80U) --end;
  return text.substr(0, end) + "...";
}

std::string value_text(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object()) return value.dump();
  return value["element"].get<std::string>() + "[" + value["count"].dump() + "] " +
         value["first"].dump(-1, ' ', false, json::error_handler_t::replace);
}

void print_columns(const std::string& left, std::size_t width, const std::string& right) {
  std::cout << "  " << printable(left) << std::string(left.size() < width ? width - left.size() : 0, ' ') << "  "
            << printable(right) << '\n';
}

void print_text(const json& file) {
  const bool colour = wants_colour(STDOUT_FILENO);
  std::cout << bold(printable(file["file"].get<std::string>()), colour) << '\n';
  std::cout << "GGUF version " << file["version"] << ", " << mebibytes(file["size_bytes"].get<std::uint64_t>()) << ", "
            << file["tensors"].size() << " tensors, " << file["parameters"] << " parameters\n\n"
            << bold("metadata", colour) << '\n';
  for (const auto& [key, value] : file["metadata"].items()) print_columns(key, 44, shortened(value_text(value), 100));
  std::cout << '\n' << bold("types", colour) << '\n';
  for (const auto& [type, sums] : file["types"].items())
    print_columns(type, 8,
                  sums["tensors"].dump() + " tensors, " + sums["parameters"].dump() + " parameters, " +
                      mebibytes(sums["bytes"].get<std::uint64_t>()));
  std::cout << '\n' << bold("tensors", colour) << " (the contiguous dimension first)\n";
  for (const json& t : file["tensors"]) {
    std::string shape;
    for (const json& size : t["shape"]) shape += (shape.empty() ? "" : " x ") + size.dump();
    print_columns(t["name"].get<std::string>(), 32,
                  t["type"].get<std::string>() + "  " + shape + "  " + mebibytes(t["bytes"].get<std::uint64_t>()));
  }
  std::cout << std::flush;
}

}  // namespace

void add_inspect(CLI::App& app, inspect_options& options) {
  app.add_option("model", options.path, "Checkpoint in GGUF format")->required()->type_name("MODEL");
  app.add_flag("--fingerprint", options.fingerprint,
               "Only the fingerprint of the tensors, by which an adapter names its base");
  add_common(app, options.common);
  app.footer("Example:\n  blockattn inspect model.gguf --json");
}

int run_inspect(const inspect_options& options) {
  const blockattn::gguf_file file(options.path);
  if (options.fingerprint) {
    const std::string fingerprint = to_string(blockattn::hash_tensors(file));
    if (options.common.json)
      print_json({{"file", options.path}, {"fingerprint", fingerprint}});
    else
      std::cout << fingerprint << std::endl;
  } else if (options.common.json) {
    print_json(to_json(file));
  } else {
    print_text(to_json(file));
  }
  return 0;
}

}  // namespace blockattn_command
