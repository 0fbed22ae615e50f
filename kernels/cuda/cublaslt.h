// cuBLASLt, loaded at run time.
//
// An algorithm is the first one that the library's own heuristic names for a shape, kept from then
// on: one chosen by timing would make the bits of a run depend on noise. Split sums are allowed
// only through a workspace with a reduction of its own, whose order is fixed.
#ifndef KERNELS_CUDA_CUBLASLT_H_
#define KERNELS_CUDA_CUBLASLT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "kernels/cuda/device.h"

namespace nibble::kernels::cuda {

class CublasLt {
 public:
  virtual ~CublasLt() = default;
  // `constants`: 0 and 1 in FP32, on the device. FAILED_PRECONDITION: the library is not there, or
  // too old; the text says what was tried.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Open(std::unique_ptr<DeviceBuffer> workspace,
                                                        std::unique_ptr<DeviceBuffer> constants,
                                                        absl::string_view device);
  // Hardware errors, with call and device.
  virtual absl::Status Multiply(const Product& product, void* stream) = 0;
};

}  // namespace nibble::kernels::cuda

#endif  // KERNELS_CUDA_CUBLASLT_H_
