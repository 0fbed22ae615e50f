#include "kernels/cpu/product_kernels.h"

#include "kernels/cpu/simd.h"
#include "kernels/nvfp4/bf16.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

// One row of a tile. Both factors always: a multiplication by 1 changes nothing.
template <bool kAccumulate>
static void StoreRowF32(const float* product, float* c, int64_t cols, ProductScale scale) {
  int64_t i = 0;
  for (; i + 16 <= cols; i += 16) {
    F32x16 value = Load(product + i) * Set1(scale.first) * Set1(scale.second);
    if (kAccumulate) value = Load(c + i) + value;
    Store(c + i, value);
  }
  for (; i < cols; ++i) {
    const float value = product[i] * scale.first * scale.second;
    c[i] = kAccumulate ? c[i] + value : value;
  }
}

static void StoreRowBF16(const float* product, uint16_t* c, int64_t cols, ProductScale scale) {
  int64_t i = 0;
  for (; i + 16 <= cols; i += 16) {
    StoreBf16(c + i, Load(product + i) * Set1(scale.first) * Set1(scale.second));
  }
  for (; i < cols; ++i) c[i] = nvfp4::F32ToBf16(product[i] * scale.first * scale.second);
}

void StoreTile(const StoreTileJob& job) {
  for (int64_t r = 0; r < job.rows; ++r) {
    const float* product = job.product + r * job.product_stride;
    if (job.c_type == DType::kBF16) {
      StoreRowBF16(product, static_cast<uint16_t*>(job.c) + r * job.c_stride, job.cols, job.scale);
    } else if (job.accumulate) {
      StoreRowF32<true>(product, static_cast<float*>(job.c) + r * job.c_stride, job.cols,
                        job.scale);
    } else {
      StoreRowF32<false>(product, static_cast<float*>(job.c) + r * job.c_stride, job.cols,
                         job.scale);
    }
  }
}

void Widen(const uint16_t* from, float* to, int64_t size) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) Store(to + i, LoadBf16(from + i));
  for (; i < size; ++i) to[i] = nvfp4::Bf16ToF32(from[i]);
}

void Narrow(const float* from, uint16_t* to, int64_t size) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) StoreBf16(to + i, Load(from + i));
  for (; i < size; ++i) to[i] = nvfp4::F32ToBf16(from[i]);
}

void Round(const float* from, float* to, int64_t size) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) Store(to + i, RoundToBf16(Load(from + i)));
  for (; i < size; ++i) to[i] = nvfp4::RoundToBf16(from[i]);
}

}  // namespace

const ProductKernels kProductKernels = {StoreTile, Widen, Narrow, Round};

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
