// What every kernel of this folder is written in: CUDA, or, where the compiler is not nvcc, the
// host emulation of its thread blocks (emulation/simt.h), which runs the same kernels in tests.
//
// Sums over threads have a fixed order (a butterfly over lanes, then warps in order), so results
// depend on the launch geometry alone; geometry depends on shapes alone, never on the device.
#ifndef KERNELS_CUDA_SIMT_CUH_
#define KERNELS_CUDA_SIMT_CUH_

#include <cstdint>

#include "kernels/cuda/target.h"
#include "kernels/nvfp4/bf16.h"
#include "kernels/nvfp4/bits.h"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define NIBBLE_GLOBAL __global__
#define NIBBLE_DEVICE __device__ __forceinline__
#define NIBBLE_SHARED __shared__

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

// Memory whose size the launch gives.
template <class T>
NIBBLE_DEVICE T* DynamicShared() {
  extern __shared__ __align__(128) unsigned char nibble_dynamic_shared[];
  return reinterpret_cast<T*>(nibble_dynamic_shared);
}

// Errors are the caller's to collect (Device::CheckLaunch).
template <class... P, class... A>
void Launch(dim3 grid, int threads, int64_t shared_bytes, void* stream, void (*kernel)(P...),
            A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  // More than 48 KiB has to be asked for.
  if (shared_bytes > 48 * 1024 &&
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared_bytes)) != cudaSuccess) {
    return;
  }
  kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#else
#include "kernels/cuda/emulation/simt.h"
#endif

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = 256;  // of a block, unless a kernel says otherwise

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

NIBBLE_DEVICE int LaneId() { return static_cast<int>(threadIdx.x % kWarp); }
NIBBLE_DEVICE int WarpId() { return static_cast<int>(threadIdx.x / kWarp); }
// Of the whole one-dimensional launch.
NIBBLE_DEVICE int64_t GlobalThread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Elements as FP32, and back to their type (nearest even).
NIBBLE_DEVICE float ToFloat(float value) { return value; }
NIBBLE_DEVICE float ToFloat(uint16_t bf16) { return nvfp4::Bf16ToF32(bf16); }
NIBBLE_DEVICE void Put(float* to, float value) { *to = value; }
NIBBLE_DEVICE void Put(uint16_t* to, float value) { *to = nvfp4::F32ToBf16(value); }

struct alignas(16) Words4 {
  uint32_t v[4];
};

NIBBLE_DEVICE bool IsAligned16(const void* pointer) {
  return (reinterpret_cast<uintptr_t>(pointer) & 15u) == 0;
}

// Eight elements in 16-byte accesses. REQUIRES: aligned to 16 bytes.
NIBBLE_DEVICE void Load8(const float* from, float* x) {
  const Words4 a = reinterpret_cast<const Words4*>(from)[0];
  const Words4 b = reinterpret_cast<const Words4*>(from)[1];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[i] = nvfp4::FloatOf(a.v[i]);
    x[4 + i] = nvfp4::FloatOf(b.v[i]);
  }
}
NIBBLE_DEVICE void Load8(const uint16_t* from, float* x) {
  const Words4 a = *reinterpret_cast<const Words4*>(from);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = nvfp4::FloatOf(a.v[i] << 16);
    x[2 * i + 1] = nvfp4::FloatOf(a.v[i] & 0xffff0000u);
  }
}
NIBBLE_DEVICE void Store8(float* to, const float* x) {
  Words4 a, b;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a.v[i] = nvfp4::BitsOf(x[i]);
    b.v[i] = nvfp4::BitsOf(x[4 + i]);
  }
  reinterpret_cast<Words4*>(to)[0] = a;
  reinterpret_cast<Words4*>(to)[1] = b;
}
NIBBLE_DEVICE void Store8(uint16_t* to, const float* x) {
  Words4 a;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a.v[i] = static_cast<uint32_t>(nvfp4::F32ToBf16(x[2 * i])) |
             static_cast<uint32_t>(nvfp4::F32ToBf16(x[2 * i + 1])) << 16;
  }
  *reinterpret_cast<Words4*>(to) = a;
}

NIBBLE_DEVICE float WarpSum(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, lanes);
  }
  return value;
}
NIBBLE_DEVICE float WarpMax(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lanes));
  }
  return value;
}

// Over all threads of a block of kBlockThreads; every thread gets the result. Has barriers: all
// threads call it.
template <int kBlockThreads>
NIBBLE_DEVICE float BlockSum(float value) {
  NIBBLE_SHARED float of_warp[kBlockThreads / kWarp];
  value = WarpSum(value);
  __syncthreads();  // the array may still be read by the call before
  if (LaneId() == 0) of_warp[WarpId()] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kBlockThreads / kWarp; ++w) sum += of_warp[w];
  return sum;
}
template <int kBlockThreads>
NIBBLE_DEVICE float BlockMax(float value) {
  NIBBLE_SHARED float of_warp[kBlockThreads / kWarp];
  value = WarpMax(value);
  __syncthreads();
  if (LaneId() == 0) of_warp[WarpId()] = value;
  __syncthreads();
  float max = of_warp[0];
#pragma unroll
  for (int w = 1; w < kBlockThreads / kWarp; ++w) max = fmaxf(max, of_warp[w]);
  return max;
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#endif  // KERNELS_CUDA_SIMT_CUH_
