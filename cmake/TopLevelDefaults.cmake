# What a build of this project alone gets when nothing else was asked for. Included before project().
# No -march: the kernels for each instruction set are chosen at run time.
if(NOT CMAKE_BUILD_TYPE AND NOT DEFINED CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel")
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG" CACHE STRING "Flags of a Release build")

find_program(BLOCKATTN_CCACHE ccache DOC "Compiler cache; used if found")
mark_as_advanced(BLOCKATTN_CCACHE)
if(BLOCKATTN_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${BLOCKATTN_CCACHE}")
endif()
