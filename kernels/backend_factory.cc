#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_factory.h"
#include "kernels/reference/reference_backend.h"

namespace nibble::kernels {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(absl::string_view name,
                                                       const BackendOptions& options) {
  if (name == "reference") return CreateReferenceBackend();
  if (name == "cpu") return CreateCpuBackend(options);
  if (name == "cuda") return cuda::CreateCudaBackend();
  return absl::InvalidArgumentError(
      absl::StrCat("backend '", name, "'; there are reference, cpu and cuda"));
}

}  // namespace nibble::kernels
