# Compiler settings and the two functions that every folder's CMakeLists.txt uses.

# Rounding is part of the product (docs/numerics.md): no contraction, no fast-math, anywhere.
# nvcc has its own words for these (kernels/cuda/CMakeLists.txt).
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-ffp-contract=off;-fno-math-errno>")
if(NIBBLE_WERROR)
  add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-Werror>)
endif()
# Debian's Abseil is built as C++14: its own string_view does not convert to std::string_view.
include_directories(${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/proto)

if(NIBBLE_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
elseif(NIBBLE_SANITIZE STREQUAL "thread")
  # Without the macro: under it protobuf's headers give map fields two more members, which Debian's
  # libprotobuf, built without it, does not have.
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer -U__SANITIZE_THREAD__)
  add_link_options(-fsanitize=thread)
elseif(NIBBLE_SANITIZE)
  message(FATAL_ERROR "NIBBLE_SANITIZE is '${NIBBLE_SANITIZE}'; it takes address, thread or nothing.")
endif()

if(NIBBLE_FUZZ)
  if(NIBBLE_SANITIZE OR NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "NIBBLE_FUZZ needs clang and brings its own sanitizers.")
  endif()
  # vptr wants type information of Debian's libraries that is not visible.
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=vptr,function
                      -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
endif()

find_program(NIBBLE_CCACHE ccache)
if(NIBBLE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${NIBBLE_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${NIBBLE_CCACHE})
endif()

# nibble_library(NAME SRCS a.cc ... [DEPS lib ...] [OPTIONS flag ...]): a static library. Without
# SRCS, a header-only one.
function(nibble_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;OPTIONS" ${ARGN})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS})
    target_link_libraries(${name} PUBLIC ${ARG_DEPS})
    target_compile_options(${name} PRIVATE ${ARG_OPTIONS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# nibble_test(NAME SRCS a_test.cc ... [DEPS lib ...] [TIMEOUT seconds] [LABELS label ...]): one
# GoogleTest program, registered with CTest as one test.
function(nibble_test name)
  if(NOT BUILD_TESTING)
    return()
  endif()
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  # Optimising GoogleTest's templates takes a third of a test's compilation; what is tested lies in
  # libraries.
  target_compile_options(${name} PRIVATE -O1)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  if(ARG_LABELS)
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}")
  endif()
endfunction()
