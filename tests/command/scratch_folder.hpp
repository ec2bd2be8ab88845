// A folder of its own for a test, removed with everything in it at the end.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace blockattn_test {

class scratch_folder {
 public:
  scratch_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "blockattn-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("can't create a folder like " + name);
    path_ = name;
  }
  ~scratch_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

  /// Writes a file, its folders too. Its time of change is set `age` seconds after the start of 2020, so that tests
  /// don't depend on the clock.
  void write(const std::string& name, std::string_view content, int age = 0) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
    set_age(name, age);
  }
  void set_age(const std::string& name, int age) const {
    constexpr std::time_t start_of_2020 = 1577836800;
    const ::timespec time{start_of_2020 + age, 0};
    const ::timespec times[] = {time, time};
    if (::utimensat(AT_FDCWD, (path_ / name).c_str(), times, 0) != 0)
      throw std::runtime_error("can't set the time of " + name);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace blockattn_test
