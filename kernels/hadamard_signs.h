// The signs that a format asks of its Hadamard transform.
#ifndef KERNELS_HADAMARD_SIGNS_H_
#define KERNELS_HADAMARD_SIGNS_H_

#include "kernels/nvfp4/hadamard.h"
#include "kernels/operand_format.h"

namespace nibble::kernels {

// `step`: of the training run, from 0; read where signs are redrawn. Signs that are drawn once are
// those of no step.
inline nvfp4::SignBits SignsOf(const OperandFormat& format, uint32_t step) {
  switch (format.hadamard_signs) {
    case HadamardSigns::kNone:
      return nvfp4::SignBits{};
    case HadamardSigns::kDrawn:
      return nvfp4::DrawnSigns(format.hadamard_seed, 0xffffffffu);
    case HadamardSigns::kRedrawn:
      return nvfp4::DrawnSigns(format.hadamard_seed, step);
    case HadamardSigns::kFixed:
      break;
  }
  return nvfp4::FixedSigns();
}

}  // namespace nibble::kernels

#endif  // KERNELS_HADAMARD_SIGNS_H_
