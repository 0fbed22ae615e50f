// Matrix products for use inside a tile of ParallelFor: single-threaded, oneDNN underneath.
//
// A product's bits depend on its shape, strides and the instruction set only, never on the thread
// that runs it. The first call of a shape on a thread may allocate (a primitive and its scratch);
// later ones do not.
#ifndef KERNELS_CPU_GEMM_H_
#define KERNELS_CPU_GEMM_H_

#include <cstdint>

#include "kernels/op_args.h"

namespace nibble::kernels::cpu {

// C = alpha op(A) op(B) + beta C, row-major FP32; op(A) [m, k], op(B) [k, n]. trans_a: A is stored
// [k, m]. lda, ldb, ldc: elements from one stored row to the next.
void Sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
           int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

// One side of a tile product. `type` is kF32 or kBF16.
struct TileSide {
  const void* data = nullptr;
  DType type = DType::kF32;
  int64_t stride = 0;       // elements between stored rows
  bool transposed = false;  // stored [k, m] for A, [n, k] for B
};

// C = op(A) op(B), or C += where `accumulate`; C is FP32 [m, n].
struct TileProduct {
  int64_t m = 0, n = 0, k = 0;
  TileSide a;  // [m, k]
  TileSide b;  // [k, n]
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = false;
};

// FP32 accumulation. Two BF16 sides run as a BF16 product where the machine has one
// (NativeBf16Products); otherwise BF16 sides are widened, which is exact, and multiplied in FP32.
void MultiplyTile(const TileProduct& product);

// Whether oneDNN multiplies BF16 on this machine (AVX-512 or better).
bool NativeBf16Products();

// The same product through the cached matmul primitives that BF16 uses, whatever the type: lets a
// machine without BF16 products test that path with FP32 sides. REQUIRES: equal types.
void MultiplyTileByPrimitive(const TileProduct& product);

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_GEMM_H_
