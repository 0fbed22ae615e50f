// The CUDA backend with its kernels run by the host (simt.h), for tests: every kernel is executed
// as it is compiled for GPUs, tensor-core tiles and the library's products apart, which are plain
// loops here.
#ifndef KERNELS_CUDA_EMULATION_EMULATED_DEVICE_H_
#define KERNELS_CUDA_EMULATION_EMULATED_DEVICE_H_

#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/op_engine.h"

namespace nibble::kernels::cuda {

// `capability`: 90 has native FP8, 100 native NVFP4 as well, 80 neither.
std::unique_ptr<Device> CreateEmulatedDevice(int capability);
std::unique_ptr<Backend> CreateEmulatedBackend(int capability);
std::unique_ptr<OpEngine> CreateEmulatedEngine(int capability);

}  // namespace nibble::kernels::cuda

#endif  // KERNELS_CUDA_EMULATION_EMULATED_DEVICE_H_
