// AdamW, element by element in FP32 (kernels/adamw.h fixes the order of operations).
#include "kernels/adamw.h"

#include "kernels/nvfp4/bf16.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {

void AdamW(const AdamWArgs& args) {
  const AdamWCoefficients coefficients = MakeAdamWCoefficients(args);
  for (int64_t i = 0; i < args.size; ++i) {
    AdamWUpdate(coefficients, args.gradients[i], args.first_moment[i], args.second_moment[i],
                args.parameters[i]);
    if (args.bf16_parameters != nullptr) {
      static_cast<uint16_t*>(args.bf16_parameters)[i] = nvfp4::F32ToBf16(args.parameters[i]);
    }
  }
}

}  // namespace nibble::kernels::reference
