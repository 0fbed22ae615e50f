// NIBBLE_HD marks a function that host and device compile alike. Every function of kernels/nvfp4
// is static and always inlined: the CPU backend compiles these headers several times with
// different instruction sets, and a shared out-of-line copy would be the linker's pick of one.
#ifndef KERNELS_NVFP4_HD_H_
#define KERNELS_NVFP4_HD_H_

#if defined(__CUDACC__)
#define NIBBLE_HD static __host__ __device__ __forceinline__
#else
#define NIBBLE_HD static inline __attribute__((always_inline, unused))
#endif

// Before a loop over registers: an index that is not a constant would put them into memory.
#if defined(__CUDACC__)
#define NIBBLE_UNROLL _Pragma("unroll")
#else
#define NIBBLE_UNROLL
#endif

#endif  // KERNELS_NVFP4_HD_H_
