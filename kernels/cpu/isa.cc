#include "kernels/cpu/isa.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace nibble::kernels::cpu {

absl::string_view NameOf(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return "baseline";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

Isa DetectIsa() {
  // What the flags in CMakeLists.txt let the compiler use.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  return avx512 ? Isa::kAvx512 : avx2 ? Isa::kAvx2 : Isa::kBaseline;
}

absl::StatusOr<Isa> ChooseIsa() {
  const Isa detected = DetectIsa();
  const char* wanted = std::getenv("NIBBLE_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return detected;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    if (NameOf(isa) != wanted) continue;
    if (isa <= detected) return isa;
    return absl::FailedPreconditionError(absl::StrCat(
        "NIBBLE_CPU_ISA is '", wanted, "', but this machine's widest is ", NameOf(detected)));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("NIBBLE_CPU_ISA is '", wanted, "'; it takes baseline, avx2 or avx512"));
}

}  // namespace nibble::kernels::cpu
