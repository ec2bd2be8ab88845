# Plants one violation after the other in a small tree and expects check_layers.cmake to name it; the tree without one passes.
cmake_minimum_required(VERSION 3.25)

set(tree "${WORK_DIR}/layers_self_test")

function(plant_clean_tree)
  file(REMOVE_RECURSE "${tree}")
  set(root "${tree}/include/blockattn")
  file(WRITE "${root}/version.hpp" "#pragma once\n")
  file(WRITE "${root}/core/error.hpp" "#pragma once\n#include <string>\n#include \"blockattn/version.hpp\"\n")
  file(WRITE "${root}/kernels/dot.hpp" "#pragma once\n#include <cstdint>\n#include \"blockattn/core/error.hpp\"\n")
  file(WRITE "${root}/io/file.hpp" "#pragma once\n#include \"blockattn/core/error.hpp\"\n")
  file(WRITE "${root}/text/tokens.hpp" "#pragma once\n#include <pcre2.h>\n#include \"blockattn/io/file.hpp\"\n")
  file(WRITE "${root}/ops/linear.hpp" "#pragma once\n#include <Eigen/Core>\n#include \"blockattn/kernels/dot.hpp\"\n")
  file(WRITE "${root}/ops/norm.hpp" "#pragma once\n#include \"blockattn/ops/linear.hpp\"\n")
  file(WRITE "${root}/model/model.hpp" "#pragma once\n#include \"blockattn/ops/norm.hpp\"\n  #  include \"blockattn/text/tokens.hpp\"\n")
  file(WRITE "${root}/blockattn.hpp" "#pragma once\n#include \"blockattn/model/model.hpp\"\n")
endfunction()

function(check result_variable output_variable)
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DSOURCE_DIR=${tree}" -P "${CMAKE_CURRENT_LIST_DIR}/check_layers.cmake"
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")  # messages are wrapped
  set(${result_variable} "${result}" PARENT_SCOPE)
  set(${output_variable} "${output}" PARENT_SCOPE)
endfunction()

# reject(<file> <line> <regular expression of the message>)
function(reject file line expected)
  plant_clean_tree()
  file(APPEND "${tree}/include/blockattn/${file}" "${line}\n")
  check(result output)
  if(result EQUAL 0)
    message(FATAL_ERROR "'${line}' in ${file} wasn't rejected")
  elseif(NOT output MATCHES "${expected}")
    message(FATAL_ERROR "'${line}' in ${file}: the message doesn't match '${expected}':\n${output}")
  endif()
endfunction()

plant_clean_tree()
check(result output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "the clean tree was rejected:\n${output}")
endif()

reject(core/error.hpp "#include \"blockattn/io/file.hpp\"" "core/error.hpp: includes io/file.hpp")                      # upward
reject(ops/linear.hpp "#include \"blockattn/model/model.hpp\"" "ops/linear.hpp: includes model/model.hpp")              # upward
reject(ops/linear.hpp "# include \"blockattn/text/tokens.hpp\"" "ops/linear.hpp: includes text/tokens.hpp")             # sideways
reject(text/tokens.hpp "#include \"blockattn/ops/norm.hpp\"" "text/tokens.hpp: includes ops/norm.hpp")                  # sideways
reject(text/tokens.hpp "#include \"blockattn/kernels/dot.hpp\"" "text/tokens.hpp: includes kernels/dot.hpp")
reject(kernels/dot.hpp "#include \"blockattn/io/file.hpp\"" "kernels/dot.hpp: includes io/file.hpp")
reject(kernels/dot.hpp "#include <vector>" "kernels/dot.hpp: must not include <vector>")
reject(kernels/dot.hpp "#include <Eigen/Core>" "kernels/dot.hpp: must not include <Eigen/Core>")
reject(io/file.hpp "#include <iostream>" "io/file.hpp: must not include <iostream>")
reject(io/file.hpp "#include <pcre2.h>" "io/file.hpp: must not include <pcre2.h>")
reject(io/file.hpp "#include <blockattn/core/error.hpp>" "io/file.hpp: write")
reject(io/file.hpp "#include \"error.hpp\"" "io/file.hpp: write")
reject(io/file.hpp "#include \"blockattn/core/gone.hpp\"" "core/gone.hpp, which doesn't exist")
reject(model/model.hpp "#include \"blockattn/blockattn.hpp\"" "includes the umbrella")
reject(version.hpp "#include \"blockattn/core/error.hpp\"" "must include nothing of the library")
reject(ops/linear.hpp "#include \"blockattn/ops/norm.hpp\"" "a circle of includes goes through some of: .*ops/linear.hpp")
reject(extra/new.hpp "#pragma once" "folder 'extra' has no layer")
reject(stray.hpp "#pragma once" "stray.hpp: belongs into a folder")
file(REMOVE_RECURSE "${tree}")
