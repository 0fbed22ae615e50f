// What the CUDA backend needs of a device: memory, one stream, copies, fences, and matrix products
// of a library. Two implementations: a GPU (CreateCudaDevice) and the host emulation of tests.
//
// Not thread-safe. The first error sticks: later calls do nothing, and Wait and Synchronize return
// it. RESOURCE_EXHAUSTED: device memory; UNAVAILABLE: anything else that went wrong on the device,
// with call, device and file.
#ifndef KERNELS_CUDA_DEVICE_H_
#define KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"

namespace nibble::kernels::cuda {

// How a stored operand is read by a product.
enum class Storage : uint8_t { kF32, kBF16, kE4m3, kE5m2, kPackedE2m1 };

// c [m, n] = alpha a b^T + beta c, row-major.
struct Product {
  struct Side {
    const void* data = nullptr;
    Storage storage = Storage::kBF16;
    int64_t stride = 0;       // elements between rows as stored
    bool transposed = false;  // stored as [k, rows]; not for 8 and 4 bits
    // kPackedE2m1: E4M3 scales of 16 elements along k, swizzled (kernels/nvfp4/swizzle.h).
    const uint8_t* block_scales = nullptr;
  };
  int64_t m = 0, n = 0, k = 0;
  Side a, b;
  void* c = nullptr;
  DType c_type = DType::kF32;
  int64_t c_stride = 0;
  // On the device; null: 1.
  const float* alpha = nullptr;
  bool accumulate = false;  // beta 1, else 0; FP32 c only
};

class Device {
 public:
  virtual ~Device() = default;

  // "NVIDIA H100 80GB HBM3, 9.0, 79.1 GiB"
  virtual const std::string& description() const = 0;
  // 90 is 9.0.
  virtual int capability() const = 0;
  virtual void* stream() const = 0;

  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) = 0;
  virtual void CopyToDevice(void* device, const void* host, int64_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, int64_t bytes) = 0;
  virtual void CopyOnDevice(void* to, const void* from, int64_t bytes) = 0;
  virtual void Zero(void* device, int64_t bytes) = 0;
  virtual Fence Record() = 0;
  virtual absl::Status Wait(Fence fence) = 0;
  virtual absl::Status Synchronize() = 0;

  // Collects the error of the kernels launched since the last call, under `what`'s name.
  virtual void CheckLaunch(absl::string_view what) = 0;
  // Makes `status` the device's error unless it has one.
  virtual void Fail(absl::Status status) = 0;
  virtual void Multiply(const Product& product) = 0;
};

}  // namespace nibble::kernels::cuda

#endif  // KERNELS_CUDA_DEVICE_H_
