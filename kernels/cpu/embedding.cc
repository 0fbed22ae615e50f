// Embedding lookup and its gradient.
//
// The gradient adds rows in ascending token order. Tiles are ranges of columns: each goes through
// all tokens in that order, so that no two threads meet in an element.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

constexpr int64_t kColumns = 64;

template <bool kBf16>
void AddColumns(const int32_t* tokens, const Matrix& d_out, const Matrix& d_table,
                int64_t first_col) {
  float* table = static_cast<float*>(d_table.data);
  const int64_t end = Smaller(d_out.cols, first_col + kColumns);
  for (int64_t n = 0; n < d_out.rows; ++n) {
    float* row = table + tokens[n] * d_table.cols;
    ForLanes(first_col, end, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      const F32x16 sum =
          LoadLanes<false>(row, c, count) + LoadLanes<kBf16>(d_out.data, n * d_out.cols + c, count);
      StoreLanes<false>(row, c, sum, count);
    });
  }
}

}  // namespace

void EmbeddingForward(OpContext& context, const int32_t* tokens, Matrix table, Matrix out) {
  const int64_t rows_per_tile = RowsPerTile(out.cols);
  const int64_t row_bytes = out.cols * SizeOf(out.dtype);
  ParallelFor(context.pool, TileCount(out.rows, rows_per_tile), [&](int64_t tile, int) {
    const int64_t end = Smaller(out.rows, (tile + 1) * rows_per_tile);
    for (int64_t n = tile * rows_per_tile; n < end; ++n) {
      __builtin_memcpy(static_cast<char*>(out.data) + n * row_bytes,
                       static_cast<const char*>(table.data) + tokens[n] * row_bytes, row_bytes);
    }
  });
}

void EmbeddingBackward(OpContext& context, const int32_t* tokens, Matrix d_out, Matrix d_table) {
  ParallelFor(context.pool, TileCount(d_out.cols, kColumns), [&](int64_t tile, int) {
    if (d_out.dtype == DType::kBF16) {
      AddColumns<true>(tokens, d_out, d_table, tile * kColumns);
    } else {
      AddColumns<false>(tokens, d_out, d_table, tile * kColumns);
    }
  });
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
