// What both directions of attention share: tiles of kRows queries and kRows keys in shared memory,
// a warp for every 16 rows.
//
// kRows is 64 for BF16 and 32 for FP32. Heads are padded with zeros to a multiple of 16, and rows
// to 8 elements more: 16 bytes, so that the rows of a tile start in different banks.
#ifndef KERNELS_CUDA_ATTENTION_TILE_CUH_
#define KERNELS_CUDA_ATTENTION_TILE_CUH_

#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/warp_tile.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

template <class T>
struct AttentionTile {
  static constexpr int kRows = sizeof(T) == 2 ? 64 : 32;
  static constexpr int kBlockThreads = kRows / kTile * kWarp;
  // Of a row of scores a lane handles one half: two lanes a row.
  static constexpr int kPerLane = kRows / 2;
  static constexpr int kScoreStride = kRows + 4;  // floats
  static constexpr int kWeightStride = kRows + 8;
};

inline int PaddedHead(int64_t head_size) {
  return static_cast<int>((head_size + kTile - 1) / kTile * kTile);
}

// One block's part of shared memory, taken piece by piece; every piece starts at 128 bytes.
struct SharedArena {
  unsigned char* next;

  template <class U>
  NIBBLE_DEVICE U* Take(int64_t count) {
    U* taken = reinterpret_cast<U*>(next);
    next += (count * static_cast<int64_t>(sizeof(U)) + 127) / 128 * 128;
    return taken;
  }
};
inline int64_t SharedPiece(int64_t bytes) { return (bytes + 127) / 128 * 128; }

// Rows [first, first + kRows) of one head's columns, zeros beyond `rows` and the head.
template <class T>
NIBBLE_DEVICE void LoadTile(const T* columns, int64_t width, int64_t first, int64_t rows,
                            int head_size, int padded, T* to) {
  constexpr int kVector = 8;
  const int stride = padded + 8, across = padded / kVector;
  const bool aligned = head_size % kVector == 0 && width % kVector == 0 && IsAligned16(columns);
  const int tile_rows = AttentionTile<T>::kRows;
  for (int i = static_cast<int>(threadIdx.x); i < tile_rows * across; i += blockDim.x) {
    const int row = i / across, col = i % across * kVector;
    const T* from = columns + (first + row) * width + col;
    T* target = to + row * stride + col;
    if (first + row < rows && aligned && col + kVector <= head_size) {
      const Words4* words = reinterpret_cast<const Words4*>(from);
#pragma unroll
      for (int w = 0; w < static_cast<int>(sizeof(T)) / 2; ++w) {
        reinterpret_cast<Words4*>(target)[w] = words[w];
      }
      continue;
    }
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      target[j] = first + row < rows && col + j < head_size ? from[j] : T{};
    }
  }
}

// The warp's 16 rows of a b^T into `scores`; a and b hold rows of `padded` + 8 elements.
template <class T>
NIBBLE_DEVICE void WarpScores(const T* a, const T* b, int padded, float* scores) {
  const int stride = padded + 8, row = WarpId() * kTile;
#pragma unroll 1
  for (int col = 0; col < AttentionTile<T>::kRows; col += kTile) {
    WarpTile<T> tile;
    tile.Clear();
#pragma unroll 1
    for (int k = 0; k < padded; k += kTile) {
      tile.AddProduct(TileView<false, T>{a + row * stride + k, stride},
                      TileView<false, T>{b + col * stride + k, stride});
    }
    tile.Store(scores + row * AttentionTile<T>::kScoreStride + col, AttentionTile<T>::kScoreStride);
  }
}

// sums[d] [16 rows of the warp, 16 columns from 16 d] += w x, w [kRows, kRows] read transposed
// where kTransposed, x [kRows, padded].
template <bool kTransposed, int kHeadTiles, class T>
NIBBLE_DEVICE void WarpAccumulate(const T* w, const T* x, int padded, WarpTile<T>* sums) {
  constexpr int kStride = AttentionTile<T>::kWeightStride;
  const int stride = padded + 8, row = WarpId() * kTile;
#pragma unroll 1
  for (int k = 0; k < AttentionTile<T>::kRows; k += kTile) {
    const T* left = kTransposed ? w + k * kStride + row : w + row * kStride + k;
#pragma unroll
    for (int d = 0; d < kHeadTiles; ++d) {
      if (d * kTile >= padded) continue;
      sums[d].AddProduct(TileView<kTransposed, T>{left, kStride},
                         TileView<true, T>{x + k * stride + d * kTile, stride});
    }
  }
}

// The warp's rows of the sums to rows [first, ...) of one head's columns, through `staging`
// (the warp's own 16 rows of scores).
template <int kHeadTiles, class T>
NIBBLE_DEVICE void StoreRows(const WarpTile<T>* sums, int64_t first, int64_t rows, int head_size,
                             float* scores, T* columns, int64_t width) {
  constexpr int kStride = AttentionTile<T>::kScoreStride;
  float* staging = scores + WarpId() * kTile * kStride;
#pragma unroll
  for (int d = 0; d < kHeadTiles; ++d) {
    if (d * kTile >= head_size) continue;
    __syncwarp();
    sums[d].Store(staging, kStride);
    __syncwarp();
    for (int i = LaneId(); i < kTile * kTile; i += kWarp) {
      const int64_t row = first + WarpId() * kTile + i / kTile;
      const int col = d * kTile + i % kTile;
      if (row < rows && col < head_size) {
        Put(columns + row * width + col, staging[i / kTile * kStride + i % kTile]);
      }
    }
  }
}

// Runs f with the number of 16-column tiles that holds a head, as a constant.
// FP32 heads up to 128 share one kernel: they are for checks, and kernels cost build time.
template <class T, class F>
void WithHeadTiles(int64_t head_size, const F& f) {
  if (sizeof(T) == 2 && head_size <= 64) {
    if constexpr (sizeof(T) == 2) f.template operator()<4>();
  } else if (head_size <= 128) {
    f.template operator()<8>();
  } else {
    f.template operator()<16>();
  }
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#endif  // KERNELS_CUDA_ATTENTION_TILE_CUH_
