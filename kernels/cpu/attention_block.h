// What both directions of blocked attention share. The same rules as for simd.h.
#ifndef KERNELS_CPU_ATTENTION_BLOCK_H_
#define KERNELS_CPU_ATTENTION_BLOCK_H_

#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/op_args.h"

namespace nibble::kernels::cpu {
namespace NIBBLE_ISA {

// Rows and columns of a block of scores. 64 rows waste little of the triangle; 64 x 256 scores and
// the keys and values of a block fit the second-level cache.
constexpr int64_t kQueries = 64;
constexpr int64_t kKeys = 256;

// Where one (sequence, query head) is in the packed rows.
struct HeadColumns {
  int64_t first_row;
  int64_t q, k, v;  // first columns

  NIBBLE_INLINE HeadColumns(const AttentionShape& shape, int64_t sequence, int64_t head) {
    const int64_t kv_head = head / (shape.heads / shape.kv_heads);
    first_row = sequence * shape.sequence_length;
    q = head * shape.head_size;
    k = (shape.heads + kv_head) * shape.head_size;
    v = (shape.heads + shape.kv_heads + kv_head) * shape.head_size;
  }
};

NIBBLE_SIMD float ScoreScale(int64_t head_size) {
  return 1.0f / __builtin_sqrtf(static_cast<float>(head_size));
}

// `rows` rows of `cols` columns from (row, col) on, as packed FP32.
NIBBLE_SIMD void WidenHead(const Matrix& matrix, int64_t row, int64_t col, int64_t rows,
                           int64_t cols, float* to) {
  WidenRows({matrix.data, matrix.dtype, matrix.cols, row, col, rows, cols}, to);
}

// Sets the scores behind the visible ones to minus infinity up to a multiple of sixteen, which it
// returns: what reads them needs no partial vectors.
NIBBLE_SIMD int64_t PadVisible(float* scores, int64_t visible) {
  const int64_t padded = (visible + kLanes - 1) / kLanes * kLanes;
  for (int64_t j = visible; j < padded; ++j) scores[j] = -__builtin_inff();
  return padded;
}

// Zeroes [padded, keys), rounded up to a multiple of sixteen: probabilities that the mask hides.
NIBBLE_SIMD void ZeroHidden(float* values, int64_t padded, int64_t keys) {
  for (int64_t j = padded; j < keys; j += kLanes) Store(values + j, Zero());
}

}  // namespace NIBBLE_ISA
}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_ATTENTION_BLOCK_H_
