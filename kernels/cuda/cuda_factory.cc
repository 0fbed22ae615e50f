#include "kernels/cuda/cuda_factory.h"

#include <utility>

#include "base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_engine.h"

namespace nibble::kernels::cuda {

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend() {
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<Device> device, CreateCudaDevice());
  NIBBLE_ASSIGN_OR_RETURN(auto backend, device::CudaBackend::Create(std::move(device)));
  return backend;
}

absl::StatusOr<std::unique_ptr<OpEngine>> CreateCudaEngine() {
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<Device> device, CreateCudaDevice());
  NIBBLE_ASSIGN_OR_RETURN(auto backend, device::CudaBackend::Create(std::move(device)));
  return std::make_unique<device::CudaEngine>(std::move(backend));
}

}  // namespace nibble::kernels::cuda
