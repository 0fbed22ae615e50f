// The instruction set that this process computes with.
#ifndef KERNELS_CPU_ISA_H_
#define KERNELS_CPU_ISA_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::kernels::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// "baseline", "avx2", "avx512".
absl::string_view NameOf(Isa isa);
// The widest that the machine has.
Isa DetectIsa();
// The one that the environment variable NIBBLE_CPU_ISA names, or DetectIsa() where it is not set.
// INVALID_ARGUMENT: no such name. FAILED_PRECONDITION: the machine lacks it.
absl::StatusOr<Isa> ChooseIsa();

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_ISA_H_
