// A GPU as a Device, through the CUDA runtime (linked statically) and cuBLASLt (loaded when a
// device is opened, so that programs start where neither driver nor library is).
#ifndef KERNELS_CUDA_CUDA_DEVICE_H_
#define KERNELS_CUDA_CUDA_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"

namespace nibble::kernels::cuda {

// The process' first visible GPU (CUDA_VISIBLE_DEVICES chooses). FAILED_PRECONDITION, naming what
// is missing: no driver, no GPU, one that the kernels were not built for, no cuBLASLt.
// RESOURCE_EXHAUSTED: no memory for the library's workspace.
absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice();

}  // namespace nibble::kernels::cuda

#endif  // KERNELS_CUDA_CUDA_DEVICE_H_
