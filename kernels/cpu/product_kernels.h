// Elementwise work around matrix products, compiled once for each instruction set.
#ifndef KERNELS_CPU_PRODUCT_KERNELS_H_
#define KERNELS_CPU_PRODUCT_KERNELS_H_

#include <cstdint>

#include "kernels/op_args.h"
#include "kernels/product_scale.h"

namespace nibble::kernels::cpu {

// c[r, i] = product[r, i] * scale, or c += where `accumulate`, rounded once to c's type.
struct StoreTileJob {
  const float* product = nullptr;
  int64_t product_stride = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  ProductScale scale;
  void* c = nullptr;  // the tile's first element
  DType c_type = DType::kF32;
  int64_t c_stride = 0;
  bool accumulate = false;  // FP32 only
};

struct ProductKernels {
  void (*store_tile)(const StoreTileJob& job);
  void (*widen)(const uint16_t* from, float* to, int64_t size);
  // Rounds to BF16.
  void (*narrow)(const float* from, uint16_t* to, int64_t size);
  // Rounds to BF16 and keeps FP32.
  void (*round)(const float* from, float* to, int64_t size);
};

#ifdef NIBBLE_ISA
namespace NIBBLE_ISA {
extern const ProductKernels kProductKernels;
}
#endif

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_PRODUCT_KERNELS_H_
