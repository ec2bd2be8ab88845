# Configures, builds and runs the project in the folder WAY, from nothing.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    string(REPLACE ";" " " command "${ARGN}")
    message(FATAL_ERROR "'${command}' failed (${result}):\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE "${WORK_DIR}")
set(options "-DBLOCKATTN_SOURCE_DIR=${BLOCKATTN_SOURCE_DIR}")
if(WAY MATCHES "^find_package")
  run("${CMAKE_COMMAND}" --install "${BLOCKATTN_BINARY_DIR}" --prefix "${WORK_DIR}/prefix")
  set(options "-DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix")
endif()

run("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/${WAY}" -B "${WORK_DIR}/build" -G "${GENERATOR}"
    "-DCMAKE_CXX_COMPILER=${CXX_COMPILER}" "-DCMAKE_CXX_FLAGS=${CXX_FLAGS}" "-DCMAKE_CXX_COMPILER_LAUNCHER=${CXX_COMPILER_LAUNCHER}" ${options})
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build")
run("${WORK_DIR}/build/consumer")
if(NOT output MATCHES "blockattn ${VERSION}\n")
  message(FATAL_ERROR "the consumer should print 'blockattn ${VERSION}', got:\n${output}")
endif()

# A consumer gets the library alone: none of its tests, examples, benchmarks or install rules.
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build" --target help)
if(output MATCHES "blockattn_(test|command|bench|hello)")
  message(FATAL_ERROR "the consumer's build has targets of the library's own:\n${output}")
endif()
file(REMOVE_RECURSE "${WORK_DIR}")
