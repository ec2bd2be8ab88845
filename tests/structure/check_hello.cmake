# Fails if examples/hello.cpp has more than 8 lines.
cmake_minimum_required(VERSION 3.25)

file(READ "${SOURCE_DIR}/examples/hello.cpp" text)
string(REGEX REPLACE "[^\n]" "" line_feeds "${text}")
string(LENGTH "${line_feeds}" lines)
if(lines GREATER 8)
  message(FATAL_ERROR "examples/hello.cpp has ${lines} lines; at most 8 are allowed")
endif()
