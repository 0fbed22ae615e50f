// Matrix elements as doubles: what the reference operators compute in.
#ifndef KERNELS_REFERENCE_ELEMENTS_H_
#define KERNELS_REFERENCE_ELEMENTS_H_

#include <cstdint>

#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

inline double Load(const Matrix& matrix, int64_t row, int64_t col) { return Get(matrix, row, col); }

// BF16 is reached through FP32, as on every backend.
inline void Store(const Matrix& matrix, int64_t row, int64_t col, double value) {
  Set(matrix, row, col, static_cast<float>(value));
}

}  // namespace nibble::kernels::reference

#endif  // KERNELS_REFERENCE_ELEMENTS_H_
