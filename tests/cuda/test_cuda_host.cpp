// What holds with and without a GPU: how devices are reported and chosen.
#include <catch2/catch.hpp>

#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "support/gpu.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_model.hpp"

using namespace blockattn;

namespace {

bool is_in(const std::string& part, const std::string& text) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("Without a device the report says why") {
  const cuda::device_report found = cuda::find_devices();
  CHECK(found.runtime >= 12000);
  CHECK(found.devices.empty() == !found.problem.empty());
  for (const cuda::device_facts& d : found.devices) {
    CHECK(d.capability >= 75);
    CHECK(d.memory_bytes > 0);
    CHECK(!d.name.empty());
  }
}

TEST_CASE("A GPU number that isn't there is an error under cuda and a warning under automatic") {
  const blockattn_test::temporary_file file(blockattn_test::tiny_model().file().bytes());
  load_options options;
  options.gpu = 99;
  std::vector<std::string> warnings;
  options.log = [&](log_level level, std::string_view line) {
    if (level == log_level::warning) warnings.emplace_back(line);
  };
  options.device = compute_device::cuda;
  try {
    (void)model::load(file.path(), options);
    FAIL("no error");
  } catch (const cuda_error& e) {
    CHECK(is_in("[cuda] GPU 99; found: ", e.what()));
  }
  options.device = compute_device::automatic;
  const model fallback = model::load(file.path(), options);
  CHECK(!fallback.on_gpu());
  REQUIRE(warnings.size() == 1);
  CHECK(is_in("Computing on the CPU", warnings[0]));
  CHECK(fallback.fingerprint() == model::load(file.path()).fingerprint());
}

TEST_CASE("Fewer than no layers on a GPU are an error") {
  const blockattn_test::temporary_file file(blockattn_test::tiny_model().file().bytes());
  load_options options;
  options.device = compute_device::automatic, options.gpu_layers = -3;
  try {
    (void)model::load(file.path(), options);
    FAIL("no error");
  } catch (const argument_error& e) {
    CHECK(is_in("[model] gpu_layers -3; allowed: 0 and more", e.what()));
  }
}
