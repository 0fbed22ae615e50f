// A 16x16 tile of FP32 sums held by one warp, fed from shared memory.
//
// BF16 operands go through the tensor cores (nvcuda::wmma, whose fragment layouts are its own
// business), FP32 ones through fused multiply-adds in the order of k; the host emulation takes the
// second way for both. Rows in shared memory are `stride` elements apart: a multiple of 8, tiles
// start at multiples of 16 rows and columns of 32-byte aligned memory (wmma wants both).
#ifndef KERNELS_CUDA_WARP_TILE_CUH_
#define KERNELS_CUDA_WARP_TILE_CUH_

#include "kernels/cuda/simt.cuh"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <mma.h>
#endif

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

constexpr int kTile = 16;

// Element (i, k) of a tile: at[i * stride + k], or at[k * stride + i] where kTransposed.
template <bool kTransposed, class T>
struct TileView {
  const T* at;
  int stride;

  NIBBLE_DEVICE float Get(int i, int k) const {
    return ToFloat(kTransposed ? at[k * stride + i] : at[i * stride + k]);
  }
};

// Lane l holds row l / 2, columns l % 2 * 8 to + 8.
template <class T>
class WarpTile {
 public:
  NIBBLE_DEVICE void Clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) sums_[i] = 0;
  }
  // += a b, a [16, 16], b [16, 16] with b.Get(column, k).
  template <bool kA, bool kB>
  NIBBLE_DEVICE void AddProduct(const TileView<kA, T>& a, const TileView<kB, T>& b) {
    const int row = LaneId() / 2, col = LaneId() % 2 * 8;
#pragma unroll 4
    for (int k = 0; k < kTile; ++k) {
      const float x = a.Get(row, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums_[i] = fmaf(x, b.Get(col + i, k), sums_[i]);
    }
  }
  NIBBLE_DEVICE void Store(float* to, int stride) const {
    float* row = to + LaneId() / 2 * stride + LaneId() % 2 * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) row[i] = sums_[i];
  }

 private:
  float sums_[8];
};

#if defined(__CUDACC__)
template <>
class WarpTile<uint16_t> {
 public:
  __device__ __forceinline__ void Clear() { nvcuda::wmma::fill_fragment(sums_, 0.0f); }
  template <bool kA, bool kB>
  __device__ __forceinline__ void AddProduct(const TileView<kA, uint16_t>& a,
                                             const TileView<kB, uint16_t>& b) {
    namespace wmma = nvcuda::wmma;
    // a(i, k): row-major unless transposed. b is given as b(column, k): column-major unless
    // transposed.
    using A = wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, RowMajorIf<!kA>>;
    using B = wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, RowMajorIf<kB>>;
    A left;
    B right;
    wmma::load_matrix_sync(left, reinterpret_cast<const __nv_bfloat16*>(a.at), a.stride);
    wmma::load_matrix_sync(right, reinterpret_cast<const __nv_bfloat16*>(b.at), b.stride);
    wmma::mma_sync(sums_, left, right, sums_);
  }
  __device__ __forceinline__ void Store(float* to, int stride) const {
    nvcuda::wmma::store_matrix_sync(to, sums_, stride, nvcuda::wmma::mem_row_major);
  }

 private:
  template <bool kRow>
  struct Layout {
    using type = nvcuda::wmma::row_major;
  };
  template <bool kRow>
  using RowMajorIf = typename Layout<kRow>::type;

  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sums_;
};
template <>
struct WarpTile<uint16_t>::Layout<false> {
  using type = nvcuda::wmma::col_major;
};
#endif

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#endif  // KERNELS_CUDA_WARP_TILE_CUH_
