// OpEngine of the CUDA backend: sources come from the host and results go back there.
#ifndef KERNELS_CUDA_CUDA_ENGINE_H_
#define KERNELS_CUDA_CUDA_ENGINE_H_

#include <memory>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/target.h"
#include "kernels/op_engine.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

class CudaEngine : public OpEngine {
 public:
  explicit CudaEngine(std::unique_ptr<CudaBackend> backend) : backend_(std::move(backend)) {}

  PackedNvfp4 Quantize(const OperandRequest& request) override;
  std::vector<float> RoundTrip(const OperandRequest& request) override;
  std::vector<float> Hadamard(const OperandRequest& request) override;

 private:
  const std::unique_ptr<CudaBackend> backend_;
};

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#endif  // KERNELS_CUDA_CUDA_ENGINE_H_
