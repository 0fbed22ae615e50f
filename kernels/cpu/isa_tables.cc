// The tables that sources compiled for one instruction set define, by instruction set.
#include "base/check.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/operand.h"

namespace nibble::kernels::cpu {

#define NIBBLE_TABLES(isa)                       \
  namespace isa {                                \
  extern const QuantizeKernels kQuantizeKernels; \
  extern const ScaledKernels kScaledKernels;     \
  extern const ProductKernels kProductKernels;   \
  }
NIBBLE_TABLES(baseline)
NIBBLE_TABLES(avx2)
NIBBLE_TABLES(avx512)
#undef NIBBLE_TABLES

const QuantizeKernels& QuantizeKernelsFor(Isa isa) {
  NIBBLE_CHECK(isa <= DetectIsa());
  return isa == Isa::kAvx512 ? avx512::kQuantizeKernels
         : isa == Isa::kAvx2 ? avx2::kQuantizeKernels
                             : baseline::kQuantizeKernels;
}

const ScaledKernels& ScaledKernelsFor(Isa isa) {
  NIBBLE_CHECK(isa <= DetectIsa());
  return isa == Isa::kAvx512 ? avx512::kScaledKernels
         : isa == Isa::kAvx2 ? avx2::kScaledKernels
                             : baseline::kScaledKernels;
}

const ProductKernels& ProductKernelsFor(Isa isa) {
  NIBBLE_CHECK(isa <= DetectIsa());
  return isa == Isa::kAvx512 ? avx512::kProductKernels
         : isa == Isa::kAvx2 ? avx2::kProductKernels
                             : baseline::kProductKernels;
}

}  // namespace nibble::kernels::cpu
