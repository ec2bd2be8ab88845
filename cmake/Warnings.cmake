# blockattn_warnings: what this project's own code is compiled with. Errors where CMAKE_COMPILE_WARNING_AS_ERROR is on (presets).
add_library(blockattn_warnings INTERFACE)
target_compile_options(blockattn_warnings INTERFACE -Wall -Wextra -Wpedantic -Wconversion)
