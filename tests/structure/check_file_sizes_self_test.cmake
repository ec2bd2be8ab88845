# check_file_sizes.cmake on repositories made for it: 4 MiB for all files, 12 MiB for adapters/*.gguf alone.
cmake_minimum_required(VERSION 3.25)

set(repository "${WORK_DIR}/file_sizes")

# Checks a repository with one file of `size` bytes; `good` says whether it must pass.
function(try good size path)
  file(REMOVE_RECURSE "${repository}")
  cmake_path(GET path PARENT_PATH folder)
  file(MAKE_DIRECTORY "${repository}/${folder}")
  execute_process(COMMAND git init -q "${repository}" COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND truncate -s ${size} "${repository}/${path}" COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND git -C "${repository}" add -N "${path}" COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DSOURCE_DIR=${repository}" -P "${CMAKE_CURRENT_LIST_DIR}/check_file_sizes.cmake"
    RESULT_VARIABLE result ERROR_VARIABLE message)
  file(REMOVE_RECURSE "${repository}")
  if(good AND NOT result EQUAL 0)
    message(FATAL_ERROR "${path} of ${size} bytes was refused:\n${message}")
  elseif(NOT good AND NOT message MATCHES "${path}: ${size} bytes")
    message(FATAL_ERROR "${path} of ${size} bytes should have been refused, got ${result}:\n${message}")
  endif()
endfunction()

try(TRUE 4194304 "docs/large.bin")
try(FALSE 4194305 "docs/large.bin")
try(TRUE 12582912 "adapters/some.gguf")
try(FALSE 12582913 "adapters/some.gguf")
try(FALSE 4194305 "adapters/some.bin")
try(FALSE 4194305 "adapters/deeper/some.gguf")
try(FALSE 4194305 "docs/adapters/some.gguf")
