// SwiGLU; formulas in kernels/reference/swiglu.cc. One pass over memory.
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

NIBBLE_SIMD F32x16 Sigmoid(F32x16 x) { return Set1(1.0f) / (Set1(1.0f) + Exp(Zero() - x)); }

template <bool kBf16>
void ForwardRow(const Matrix& gate_up, const Matrix& out, int64_t n) {
  const int64_t gate_at = n * gate_up.cols;
  ForLanes(0, out.cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    const F32x16 gate = LoadLanes<kBf16>(gate_up.data, gate_at + c, count);
    const F32x16 up = LoadLanes<kBf16>(gate_up.data, gate_at + out.cols + c, count);
    StoreLanes<kBf16>(out.data, n * out.cols + c, gate * Sigmoid(gate) * up, count);
  });
}

template <bool kBf16>
void BackwardRow(const Matrix& d_out, const Matrix& gate_up, const Matrix& d_gate_up, int64_t n) {
  const int64_t cols = d_out.cols;
  const int64_t gate_at = n * gate_up.cols;
  ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
    const F32x16 gate = LoadLanes<kBf16>(gate_up.data, gate_at + c, count);
    const F32x16 up = LoadLanes<kBf16>(gate_up.data, gate_at + cols + c, count);
    const F32x16 dy = LoadLanes<kBf16>(d_out.data, n * cols + c, count);
    const F32x16 one = Set1(1.0f);
    const F32x16 sigmoid = Sigmoid(gate);
    const F32x16 slope = sigmoid * (one + gate * (one - sigmoid));
    StoreLanes<kBf16>(d_gate_up.data, gate_at + c, dy * up * slope, count);
    StoreLanes<kBf16>(d_gate_up.data, gate_at + cols + c, dy * (gate * sigmoid), count);
  });
}

}  // namespace

void SwiGluForward(OpContext& context, Matrix gate_up, Matrix out) {
  const int64_t rows_per_tile = RowsPerTile(out.cols);
  ParallelFor(context.pool, TileCount(out.rows, rows_per_tile), [&](int64_t tile, int) {
    const int64_t end = Smaller(out.rows, (tile + 1) * rows_per_tile);
    for (int64_t n = tile * rows_per_tile; n < end; ++n) {
      if (out.dtype == DType::kBF16) {
        ForwardRow<true>(gate_up, out, n);
      } else {
        ForwardRow<false>(gate_up, out, n);
      }
    }
  });
}

void SwiGluBackward(OpContext& context, Matrix d_out, Matrix gate_up, Matrix d_gate_up) {
  const int64_t rows_per_tile = RowsPerTile(d_out.cols);
  ParallelFor(context.pool, TileCount(d_out.rows, rows_per_tile), [&](int64_t tile, int) {
    const int64_t end = Smaller(d_out.rows, (tile + 1) * rows_per_tile);
    for (int64_t n = tile * rows_per_tile; n < end; ++n) {
      if (d_out.dtype == DType::kBF16) {
        BackwardRow<true>(d_out, gate_up, d_gate_up, n);
      } else {
        BackwardRow<false>(d_out, gate_up, d_gate_up, n);
      }
    }
  });
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
