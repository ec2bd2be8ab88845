# cmake --install, and the package that find_package(blockattn) reads.
include(CMakePackageConfigHelpers)

set(blockattn_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/blockattn")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/blockattn" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp")
if(BLOCKATTN_CUDA)
  install(TARGETS blockattn_cuda EXPORT blockattnTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
install(TARGETS blockattn_text blockattn EXPORT blockattnTargets)
install(EXPORT blockattnTargets NAMESPACE blockattn:: DESTINATION "${blockattn_package_dir}")

foreach(tier IN ITEMS lmdb redis)  # each in a file of its own, read only where what it needs is there
  if(TARGET blockattn_${tier})
    install(TARGETS blockattn_${tier} EXPORT blockattnTargets_${tier})
    install(EXPORT blockattnTargets_${tier} NAMESPACE blockattn:: DESTINATION "${blockattn_package_dir}")
  endif()
endforeach()

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/blockattnConfig.cmake.in" "${PROJECT_BINARY_DIR}/blockattnConfig.cmake"
  INSTALL_DESTINATION "${blockattn_package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/blockattnConfigVersion.cmake" COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  "${PROJECT_BINARY_DIR}/blockattnConfig.cmake"
  "${PROJECT_BINARY_DIR}/blockattnConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindHiredis.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindLMDB.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindPCRE2.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/Findutf8proc.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindxxHash.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/Findxsimd.cmake"
  DESTINATION "${blockattn_package_dir}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
