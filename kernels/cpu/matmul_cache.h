// oneDNN matmul primitives of one thread, by shape. Creating one costs about a millisecond and
// allocates; running one does neither.
#ifndef KERNELS_CPU_MATMUL_CACHE_H_
#define KERNELS_CPU_MATMUL_CACHE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/op_args.h"

namespace nibble::kernels::cpu {

class MatmulCache {
 public:
  static MatmulCache& OfThisThread();
  // Whether oneDNN has a product of two such sides into FP32 on this machine.
  static bool Supports(DType type);

  MatmulCache();
  ~MatmulCache();
  MatmulCache(const MatmulCache&) = delete;
  MatmulCache& operator=(const MatmulCache&) = delete;

  // Sides of one type that Supports() accepts.
  void Run(const TileProduct& product);

 private:
  struct Primitive;
  // type, a transposed, b transposed, accumulate, m, n, k, strides of a, b, c.
  using Key =
      std::tuple<DType, bool, bool, bool, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
  static Primitive* Create(const TileProduct& product);

  std::map<Key, std::unique_ptr<Primitive>> primitives_;
  // The scratch of the largest primitive so far; one runs at a time.
  std::vector<char> scratchpad_;
};

// FP32 copy of a BF16 side.
class WidenBuffer {
 public:
  float* Get(int64_t size) {
    if (static_cast<int64_t>(values_.size()) < size) values_.resize(size);
    return values_.data();
  }

 private:
  std::vector<float> values_;
};

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_MATMUL_CACHE_H_
