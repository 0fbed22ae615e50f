// In a build without CUDA.
#include "kernels/cuda/cuda_factory.h"

namespace nibble::kernels::cuda {
namespace {

absl::Status NotBuilt() {
  return absl::FailedPreconditionError(
      "backend 'cuda': this build has no CUDA (configure with -DNIBBLE_CUDA=ON where nvcc is)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend() { return NotBuilt(); }
absl::StatusOr<std::unique_ptr<OpEngine>> CreateCudaEngine() { return NotBuilt(); }

}  // namespace nibble::kernels::cuda
