# The targets that applications link:
#   blockattn::text       what #include <blockattn/text/...> needs, and core and io with it (PCRE2, xxHash)
#   blockattn::blockattn  all of it (Eigen, oneTBB, xsimd too)
find_package(PCRE2 REQUIRED)
find_package(xxHash REQUIRED)
find_package(Threads REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(TBB 2021 REQUIRED)
find_package(xsimd 8.1 REQUIRED)

add_library(blockattn_text INTERFACE)
add_library(blockattn::text ALIAS blockattn_text)
set_target_properties(blockattn_text PROPERTIES EXPORT_NAME text)
target_compile_features(blockattn_text INTERFACE cxx_std_20)
target_include_directories(blockattn_text INTERFACE
  "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>"
  "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
target_link_libraries(blockattn_text INTERFACE PCRE2::8BIT xxHash::xxhash Threads::Threads)

add_library(blockattn INTERFACE)
add_library(blockattn::blockattn ALIAS blockattn)
target_link_libraries(blockattn INTERFACE blockattn_text Eigen3::Eigen TBB::tbb xsimd::xsimd)
