// SwiGLU: out = silu(gate) * up, silu(g) = g s(g), s(g) = 1 / (1 + exp(-g)).
//   d_up = dy silu(g);   d_gate = dy up s(g) (1 + g (1 - s(g))).
#include <cmath>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

void SwiGluForward(Matrix gate_up, Matrix out) {
  for (int64_t n = 0; n < out.rows; ++n) {
    for (int64_t c = 0; c < out.cols; ++c) {
      const double gate = Load(gate_up, n, c);
      const double up = Load(gate_up, n, out.cols + c);
      Store(out, n, c, gate / (1 + std::exp(-gate)) * up);
    }
  }
}

void SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up) {
  for (int64_t n = 0; n < d_out.rows; ++n) {
    for (int64_t c = 0; c < d_out.cols; ++c) {
      const double gate = Load(gate_up, n, c);
      const double up = Load(gate_up, n, d_out.cols + c);
      const double dy = Load(d_out, n, c);
      const double sigmoid = 1 / (1 + std::exp(-gate));
      Store(d_gate_up, n, c, dy * up * sigmoid * (1 + gate * (1 - sigmoid)));
      Store(d_gate_up, n, d_out.cols + c, dy * gate * sigmoid);
    }
  }
}

}  // namespace nibble::kernels::reference
