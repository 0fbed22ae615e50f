// One device allocation, planned first and then handed out: everything a model needs in a step lies
// in it, so that a step allocates nothing.
#ifndef WORKER_MODEL_ARENA_H_
#define WORKER_MODEL_ARENA_H_

#include <cstdint>

#include "kernels/backend.h"

namespace nibble::model {

// Hands out 256-byte aligned pieces one after the other. Run the same calls twice: over no memory
// to learn used(), and over a buffer of that size to get the pointers.
class Arena {
 public:
  // `base` may be null: then what Take returns must not be read, only counted.
  explicit Arena(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  void* Take(int64_t bytes) {
    const uintptr_t at = base_ + static_cast<uintptr_t>(used_);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<void*>(at);
  }
  float* TakeFloats(int64_t count) { return static_cast<float*>(Take(count * 4)); }
  kernels::Matrix TakeMatrix(kernels::DType dtype, int64_t rows, int64_t cols) {
    kernels::Matrix matrix{nullptr, dtype, rows, cols};
    matrix.data = Take(matrix.bytes());
    return matrix;
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kAlignment = 256;
  const uintptr_t base_;
  int64_t used_ = 0;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_ARENA_H_
