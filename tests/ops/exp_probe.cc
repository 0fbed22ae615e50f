// The exponential of simd.h for exp_test, compiled once for each instruction set.
#include "kernels/cpu/simd.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {

void ExpSixteen(float* values) { Store(values, Exp(Load(values))); }

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
