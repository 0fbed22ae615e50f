// Rows of a table added over and over: biases and positions. One pass over memory.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/tile_sums.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

template <bool kBf16>
void AddRow(const Matrix& out, int64_t n, const float* added) {
  const int64_t at = n * out.cols;
  ForLanes(0, out.cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    const F32x16 sum =
        LoadLanes<kBf16>(out.data, at + c, count) + LoadLanes<false>(added, c, count);
    StoreLanes<kBf16>(out.data, at + c, sum, count);
  });
}

// sums [cols] += row n.
template <bool kBf16>
void SumRow(const Matrix& rows, int64_t n, float* sums) {
  const int64_t at = n * rows.cols;
  ForLanes(0, rows.cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    const F32x16 sum =
        LoadLanes<false>(sums, c, count) + LoadLanes<kBf16>(rows.data, at + c, count);
    StoreLanes<false>(sums, c, sum, count);
  });
}

void SumRowAs(const Matrix& rows, int64_t n, float* sums) {
  if (rows.dtype == DType::kBF16) {
    SumRow<true>(rows, n, sums);
  } else {
    SumRow<false>(rows, n, sums);
  }
}

// Of a table of one row, to which every row of the matrix adds.
void SumAllRows(OpContext& context, const Matrix& rows, float* sums) {
  const int64_t tiles = TileCount(rows.rows, kGradientRows);
  float* partial = static_cast<float*>(context.scratch.Shared(tiles * rows.cols * 4));
  ParallelFor(context.pool, tiles, [&](int64_t tile, int) {
    float* sum = partial + tile * rows.cols;
    __builtin_memset(sum, 0, rows.cols * 4);
    const int64_t end = Smaller(rows.rows, (tile + 1) * kGradientRows);
    for (int64_t n = tile * kGradientRows; n < end; ++n) SumRowAs(rows, n, sum);
  });
  AddTileSums(context, partial, tiles, rows.cols, rows.cols, sums);
}

}  // namespace

void AddRows(OpContext& context, Matrix out, const float* table, int64_t period) {
  const int64_t rows_per_tile = RowsPerTile(out.cols);
  ParallelFor(context.pool, TileCount(out.rows, rows_per_tile), [&](int64_t tile, int) {
    const int64_t end = Smaller(out.rows, (tile + 1) * rows_per_tile);
    for (int64_t n = tile * rows_per_tile; n < end; ++n) {
      const float* added = table + n % period * out.cols;
      if (out.dtype == DType::kBF16) {
        AddRow<true>(out, n, added);
      } else {
        AddRow<false>(out, n, added);
      }
    }
  });
}

void AddRowsBackward(OpContext& context, Matrix d_out, float* d_table, int64_t period) {
  if (period == 1) return SumAllRows(context, d_out, d_table);
  const int64_t rows_per_tile = RowsPerTile(d_out.cols);
  ParallelFor(context.pool, TileCount(period, rows_per_tile), [&](int64_t tile, int) {
    const int64_t end = Smaller(period, (tile + 1) * rows_per_tile);
    for (int64_t p = tile * rows_per_tile; p < end; ++p) {
      for (int64_t n = p; n < d_out.rows; n += period) SumRowAs(d_out, n, d_table + p * d_out.cols);
    }
  });
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
