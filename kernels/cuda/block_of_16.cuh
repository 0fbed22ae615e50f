// How the quantisers' threads divide a matrix: one thread a group of 16 elements along the
// operand's columns. Pure functions of the thread's index, tested on the host for covering every
// group once.
//
// Along a row-major source (no transposition) neighbouring threads take neighbouring groups of a
// row: 32 (BF16) or 64 bytes each, in 16-byte accesses. Along a transposed one they take
// neighbouring rows of the operand, which are neighbouring columns of the source: a warp's loads
// are whole 64-byte pieces of source rows, and its stores whole 32-byte sectors. With 16x16 tiles
// 16 neighbouring threads are the 16 rows of a tile, in either case.
#ifndef KERNELS_CUDA_BLOCK_OF_16_CUH_
#define KERNELS_CUDA_BLOCK_OF_16_CUH_

#include <cstdint>

#include "kernels/cuda/simt.cuh"
#include "kernels/nvfp4/hadamard.h"
#include "kernels/nvfp4/hd.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

constexpr int kGroup = 16;

enum class Walk : uint8_t { kRows, kColumns, kTiles };

struct GroupPlace {
  int64_t row;
  int64_t group;  // columns [16 group, 16 group + 16)
};

// `across`: groups a row. REQUIRES: 0 <= index < rows * across; kTiles: rows a multiple of 16.
NIBBLE_HD GroupPlace PlaceOf(Walk walk, int64_t index, int64_t rows, int64_t across) {
  if (walk == Walk::kRows) return GroupPlace{index / across, index % across};
  if (walk == Walk::kColumns) return GroupPlace{index % rows, index / rows};
  const int64_t tile = index / 16;
  return GroupPlace{tile / across * 16 + index % 16, tile % across};
}

// The 16 elements, zeros beyond `cols`.
template <class T>
NIBBLE_DEVICE void LoadGroup(const T* source, bool transpose, const GroupPlace& at, int64_t rows,
                             int64_t cols, float* x) {
  const int64_t first = at.group * kGroup;
  if (transpose) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      x[j] = first + j < cols ? ToFloat(source[(first + j) * rows + at.row]) : 0.0f;
    }
    return;
  }
  const T* from = source + at.row * cols + first;
  if (first + kGroup <= cols && IsAligned16(from)) {
    Load8(from, x);
    Load8(from + 8, x + 8);
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) x[j] = first + j < cols ? ToFloat(from[j]) : 0.0f;
}

template <class T>
NIBBLE_DEVICE void StoreGroup(T* out, const GroupPlace& at, int64_t cols, const float* x) {
  const int64_t first = at.group * kGroup;
  T* to = out + at.row * cols + first;
  if (first + kGroup <= cols && IsAligned16(to)) {
    Store8(to, x);
    Store8(to + 8, x + 8);
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    if (first + j < cols) Put(to + j, x[j]);
  }
}

// Transforms of 4 or 16 elements; 0: none.
NIBBLE_DEVICE void HadamardOfGroup(int size, const nvfp4::SignBits& signs, float* x) {
  if (size == 16) nvfp4::Hadamard(x, 16, signs);
  if (size == 4) {
#pragma unroll
    for (int i = 0; i < kGroup; i += 4) nvfp4::Hadamard(x + i, 4, signs);
  }
}

// Bits of the largest magnitude: their order is that of the magnitudes, with NaN above infinity.
NIBBLE_DEVICE uint32_t AmaxBits(const float* x) {
  uint32_t bits = 0;
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    const uint32_t b = nvfp4::BitsOf(x[j]) & 0x7fffffffu;
    bits = b > bits ? b : bits;
  }
  return bits;
}

// The largest over groups of `lanes` neighbouring lanes. All lanes of the warp call it.
NIBBLE_DEVICE uint32_t MaxOverLanes(uint32_t bits, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, bits, distance);
    bits = other > bits ? other : bits;
  }
  return bits;
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#endif  // KERNELS_CUDA_BLOCK_OF_16_CUH_
