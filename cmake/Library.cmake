# The targets that applications link:
#   blockattn::text       what #include <blockattn/text/...> needs, and core and io with it (PCRE2, utf8proc, xxHash)
#   blockattn::blockattn  all of it but what follows (Eigen, oneTBB, xsimd too)
#   blockattn::lmdb       blockattn/cache/lmdb_*.hpp too, if liblmdb is there
#   blockattn::redis      blockattn/cache/redis_*.hpp too, if hiredis is there
find_package(PCRE2 REQUIRED)
find_package(utf8proc REQUIRED)
find_package(xxHash REQUIRED)
find_package(Threads REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(TBB 2021 REQUIRED)
find_package(xsimd 8.1 REQUIRED)
find_package(LMDB QUIET)
find_package(Hiredis QUIET)

add_library(blockattn_text INTERFACE)
add_library(blockattn::text ALIAS blockattn_text)
set_target_properties(blockattn_text PROPERTIES EXPORT_NAME text)
target_compile_features(blockattn_text INTERFACE cxx_std_20)
target_include_directories(blockattn_text INTERFACE
  "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>"
  "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
target_link_libraries(blockattn_text INTERFACE PCRE2::8BIT utf8proc::utf8proc xxHash::xxhash Threads::Threads)

add_library(blockattn INTERFACE)
add_library(blockattn::blockattn ALIAS blockattn)
target_link_libraries(blockattn INTERFACE blockattn_text Eigen3::Eigen TBB::tbb xsimd::xsimd)

# This project's own programs compile the library's largest parts once, not in each of their many translation units (core/parts.hpp). Installed, or as a part of another
# project, the library is its headers alone.
option(BLOCKATTN_COMPILED "Compile the library's largest parts once for this build's own programs" ${PROJECT_IS_TOP_LEVEL})
if(BLOCKATTN_COMPILED)
  add_library(blockattn_parts STATIC EXCLUDE_FROM_ALL cmake/parts_kernels.cpp cmake/parts_models.cpp cmake/parts_text.cpp)
  target_link_libraries(blockattn_parts PUBLIC blockattn_text Eigen3::Eigen TBB::tbb xsimd::xsimd)
  target_compile_definitions(blockattn_parts PRIVATE BLOCKATTN_COMPILED)
  target_compile_definitions(blockattn INTERFACE "$<BUILD_INTERFACE:BLOCKATTN_COMPILED>")
  target_link_libraries(blockattn INTERFACE "$<BUILD_INTERFACE:blockattn_parts>")
endif()

if(LMDB_FOUND)
  add_library(blockattn_lmdb INTERFACE)
  add_library(blockattn::lmdb ALIAS blockattn_lmdb)
  set_target_properties(blockattn_lmdb PROPERTIES EXPORT_NAME lmdb)
  target_link_libraries(blockattn_lmdb INTERFACE blockattn LMDB::lmdb)
endif()
if(Hiredis_FOUND)
  add_library(blockattn_redis INTERFACE)
  add_library(blockattn::redis ALIAS blockattn_redis)
  set_target_properties(blockattn_redis PROPERTIES EXPORT_NAME redis)
  target_link_libraries(blockattn_redis INTERFACE blockattn Hiredis::hiredis)
endif()
