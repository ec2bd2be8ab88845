// `blockattn inspect`: metadata, tensors and sizes of a checkpoint, or what the processor has. Nothing is computed, so unsupported
// families can be looked at too.
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "blockattn/io/check_weights.hpp"
#include "blockattn/io/gguf_fingerprint.hpp"
#include "blockattn/io/open_checkpoint.hpp"
#include "blockattn/kernels/dispatch.hpp"
#include "blockattn/kernels/interleave.hpp"
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
  std::cout << file["format"].get<std::string>() << (file.contains("version") ? " version " + file["version"].dump() : "") << ", " << mebibytes(file["size_bytes"].get<std::uint64_t>()) << ", "
            << file["tensors"].size() << " tensors, " << file["parameters"] << " parameters\n\n"
            << bold("metadata", colour) << '\n';
  for (const auto& [key, value] : file["metadata"].items()) print_columns(key, 44, shortened(value_text(value), 100));
  std::cout << "a copy of the quantised weights in the order of the kernels (--repack on) takes at most "
            << mebibytes(file["repacked_bytes"].get<std::uint64_t>()) << '\n';
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

/// What each level of kernels multiplies weights with.
const char* use_of(blockattn::isa level) {
  switch (level) {
    case blockattn::isa::portable: return "quantised weights as 16-bit integers, others as float32, on the compiler's baseline";
    case blockattn::isa::avx2: return "up to 6 bits as bytes (vpmaddubsw), more as 16-bit integers (vpmaddwd), others as float32";
    case blockattn::isa::avx_vnni: return "quantised weights as bytes (vpdpbusd, 256 bits), others as float32";
    case blockattn::isa::avx512: return "up to 6 bits as bytes (vpmaddubsw, 512 bits), more as 16-bit integers, others as float32";
    case blockattn::isa::avx512_vnni: return "quantised weights as bytes (vpdpbusd, 512 bits), others as float32";
    case blockattn::isa::avx512_bf16: return "quantised weights as bytes (vpdpbusd, 512 bits), others and attention as bfloat16 (vdpbf16ps)";
    case blockattn::isa::amx: return "many tokens: all weights as bfloat16 on tiles (tdpbf16ps); few tokens and attention as avx512_bf16";
    case blockattn::isa::neon_dotprod: return "quantised weights as bytes (sdot), others as float32";
    case blockattn::isa::neon_i8mm: return "quantised weights as bytes (usdot), others as float32";
  }
  return "";
}

json cpu_json() {
  const blockattn::cpu_features& f = blockattn::features();
  json levels = json::array();
  for (const blockattn::isa level : blockattn::all_isas)
    levels.push_back({{"level", std::string(name(level))}, {"supported", supports(level)}, {"use", use_of(level)}});
  return {{"features",
           {{"avx2", f.avx2}, {"fma", f.fma}, {"f16c", f.f16c}, {"avx_vnni", f.avx_vnni}, {"avx512", f.avx512},
            {"avx512_vnni", f.avx512_vnni}, {"avx512_bf16", f.avx512_bf16}, {"amx_int8", f.amx_int8}, {"amx_bf16", f.amx_bf16},
            {"dotprod", f.dotprod}, {"i8mm", f.i8mm}}},
          {"levels", levels},
          {"chosen", std::string(name(blockattn::kernels().level))}};
}

int print_cpu(bool as_json) {
  const json cpu = cpu_json();
  if (as_json) {
    print_json(cpu);
    return 0;
  }
  const bool colour = wants_colour(STDOUT_FILENO);
  std::cout << bold("features", colour) << "\n ";
  for (const auto& [feature, found] : cpu["features"].items())
    if (found.get<bool>()) std::cout << ' ' << feature;
  std::cout << "\n\n" << bold("levels of kernels", colour) << " (BLOCKATTN_ISA forces one)\n";
  for (const json& level : cpu["levels"]) {
    const bool chosen = level["level"] == cpu["chosen"];
    print_columns(level["level"].get<std::string>(), 14,
                  std::string(chosen ? "chosen     " : (level["supported"].get<bool>() ? "supported  " : "-          ")) + level["use"].get<std::string>());
  }
  std::cout << std::flush;
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, inspect_options& options) {
  CLI::Option* model = app.add_option("model", options.path, "Checkpoint: a GGUF file, or a folder with safetensors files")->type_name("MODEL");
  CLI::Option* cpu = app.add_flag("--cpu", options.cpu, "What the processor has, and which level of kernels is used");
  model->excludes(cpu);
  app.parse_complete_callback([&options] {
    if (!options.cpu && options.path.empty()) throw CLI::RequiredError("model (or --cpu)");
  });
  app.add_flag("--fingerprint", options.fingerprint,
               "Only the fingerprint of the tensors, by which an adapter names its base");
  app.add_flag("--check", options.check, "Read all weights first, and fail if one is infinite or not a number");
  add_common(app, options.common);
  app.footer("Examples:\n  blockattn inspect model.gguf --json\n  blockattn inspect --cpu");
}

int run_inspect(const inspect_options& options) {
  if (options.cpu) return print_cpu(options.common.json);
  const blockattn::checkpoint file = blockattn::open_checkpoint(options.path);
  if (options.check) {
    progress_bar bar("checking", "bytes", !options.common.json);
    blockattn::check_weights(file, [&bar](std::int64_t done, std::int64_t total) {
      bar.update(done, total);
      return true;
    });
    bar.finish();
  }
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
