// Embedding lookup and its gradient. The gradient is a sum in FP32 in ascending token order: that
// order is the definition, so that every backend agrees bit for bit.
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

void EmbeddingForward(const int32_t* tokens, Matrix table, Matrix out) {
  for (int64_t n = 0; n < out.rows; ++n) {
    for (int64_t c = 0; c < out.cols; ++c) {
      Set(out, n, c, Get(table, tokens[n], c));
    }
  }
}

void EmbeddingBackward(const int32_t* tokens, Matrix d_out, Matrix d_table) {
  float* gradient = static_cast<float*>(d_table.data);
  for (int64_t n = 0; n < d_out.rows; ++n) {
    for (int64_t c = 0; c < d_out.cols; ++c) {
      gradient[tokens[n] * d_table.cols + c] += Get(d_out, n, c);
    }
  }
}

}  // namespace nibble::kernels::reference
