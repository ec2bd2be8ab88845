# Finds PCRE2 for 8-bit text and gives the target PCRE2::8BIT. (Debian's libpcre2-dev ships no CMake package.)
find_path(PCRE2_INCLUDE_DIR pcre2.h DOC "Folder of pcre2.h")
find_library(PCRE2_8BIT_LIBRARY pcre2-8 DOC "PCRE2 for 8-bit text")
mark_as_advanced(PCRE2_INCLUDE_DIR PCRE2_8BIT_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(PCRE2
  REQUIRED_VARS PCRE2_8BIT_LIBRARY PCRE2_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "On Debian: apt-get install libpcre2-dev")

if(PCRE2_FOUND AND NOT TARGET PCRE2::8BIT)
  add_library(PCRE2::8BIT UNKNOWN IMPORTED)
  set_target_properties(PCRE2::8BIT PROPERTIES
    IMPORTED_LOCATION "${PCRE2_8BIT_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${PCRE2_INCLUDE_DIR}")
endif()
