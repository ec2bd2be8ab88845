# Finds the headers of xsimd and gives the target xsimd::xsimd. (The CMake package of Debian's libxsimd-dev links a library that it
# neither has nor needs.)
find_path(XSIMD_INCLUDE_DIR xsimd/xsimd.hpp DOC "Folder of xsimd/xsimd.hpp")
mark_as_advanced(XSIMD_INCLUDE_DIR)

set(xsimd_VERSION "")
if(XSIMD_INCLUDE_DIR)
  file(READ "${XSIMD_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp" xsimd_text)
  foreach(xsimd_part MAJOR MINOR PATCH)
    if(xsimd_text MATCHES "#define XSIMD_VERSION_${xsimd_part} ([0-9]+)")
      list(APPEND xsimd_VERSION "${CMAKE_MATCH_1}")
    endif()
  endforeach()
  list(JOIN xsimd_VERSION "." xsimd_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(xsimd
  REQUIRED_VARS XSIMD_INCLUDE_DIR
  VERSION_VAR xsimd_VERSION
  REASON_FAILURE_MESSAGE "On Debian: apt-get install libxsimd-dev")

if(xsimd_FOUND AND NOT TARGET xsimd::xsimd)
  add_library(xsimd::xsimd INTERFACE IMPORTED)
  set_target_properties(xsimd::xsimd PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${XSIMD_INCLUDE_DIR}")
endif()
