# NIBBLE_CUDA: whether the CUDA backend is built. Sets NIBBLE_HAVE_CUDA. Needs nvcc, no GPU; what is
# built runs where there is neither driver nor GPU, without that backend.

if(NOT NIBBLE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "NIBBLE_CUDA is '${NIBBLE_CUDA}'; it takes AUTO, ON or OFF.")
endif()
if(NIBBLE_CUDA STREQUAL "ON" AND NIBBLE_SANITIZE)
  message(FATAL_ERROR "NIBBLE_CUDA=ON does not go with NIBBLE_SANITIZE: nvcc has no such sanitizers.")
endif()

set(NIBBLE_HAVE_CUDA OFF)
if(NOT NIBBLE_CUDA STREQUAL "OFF" AND NOT NIBBLE_SANITIZE)
  find_program(NIBBLE_NVCC nvcc HINTS /usr/local/cuda/bin)
  if(NIBBLE_NVCC)
    set(CMAKE_CUDA_COMPILER ${NIBBLE_NVCC})
    # Hopper, Blackwell of data centres and of desktops; machine code only.
    set(CMAKE_CUDA_ARCHITECTURES "90a-real;100a-real;120a-real")
    enable_language(CUDA)
    # CMake 3.25 does not know that nvcc 12 and later have it.
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_EXTENSIONS OFF)
    if(NIBBLE_CCACHE)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${NIBBLE_CCACHE})
    endif()
    set(NIBBLE_HAVE_CUDA ON)
  elseif(NIBBLE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "NIBBLE_CUDA is ON and there is no nvcc on the PATH or in /usr/local/cuda/bin.")
  endif()
endif()
message(STATUS "CUDA backend: ${NIBBLE_HAVE_CUDA}")
