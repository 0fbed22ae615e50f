// Rows of a table added to the rows of a matrix, over and over: a bias (one row), or positions (a
// row each).
#include <vector>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

void AddRows(Matrix out, const float* table, int64_t period) {
  for (int64_t n = 0; n < out.rows; ++n) {
    for (int64_t c = 0; c < out.cols; ++c) {
      Store(out, n, c, Load(out, n, c) + static_cast<double>(table[n % period * out.cols + c]));
    }
  }
}

void AddRowsBackward(Matrix d_out, float* d_table, int64_t period) {
  std::vector<double> sums(period * d_out.cols, 0.0);
  for (int64_t n = 0; n < d_out.rows; ++n) {
    for (int64_t c = 0; c < d_out.cols; ++c) {
      sums[n % period * d_out.cols + c] += Load(d_out, n, c);
    }
  }
  for (int64_t i = 0; i < period * d_out.cols; ++i) {
    d_table[i] = static_cast<float>(d_table[i] + sums[i]);
  }
}

}  // namespace nibble::kernels::reference
