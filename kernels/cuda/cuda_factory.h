// The CUDA backend of this build.
#ifndef KERNELS_CUDA_CUDA_FACTORY_H_
#define KERNELS_CUDA_CUDA_FACTORY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/op_engine.h"

namespace nibble::kernels::cuda {

// FAILED_PRECONDITION, naming what is missing: a build with CUDA, a driver, a GPU, cuBLASLt.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend();
absl::StatusOr<std::unique_ptr<OpEngine>> CreateCudaEngine();

}  // namespace nibble::kernels::cuda

#endif  // KERNELS_CUDA_CUDA_FACTORY_H_
