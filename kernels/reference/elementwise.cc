// Addition, casts, the norm of a flat array.
#include <cmath>

#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

void AddInPlace(Matrix out, Matrix in) {
  for (int64_t i = 0; i < out.size(); ++i) {
    Set(out, 0, i, Get(out, 0, i) + Get(in, 0, i));
  }
}

void Cast(Matrix from, Matrix to) {
  for (int64_t i = 0; i < from.size(); ++i) Set(to, 0, i, Get(from, 0, i));
}

void Norm(const float* values, int64_t size, float* norm) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += static_cast<double>(values[i]) * values[i];
  *norm = static_cast<float>(std::sqrt(sum));
}

}  // namespace nibble::kernels::reference
