// The CUDA backend over a Device. See docs/cuda.md for what is native and what has run where.
#ifndef KERNELS_CUDA_CUDA_BACKEND_H_
#define KERNELS_CUDA_CUDA_BACKEND_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/target.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {

// How an operand is stored.
enum class Form : uint8_t {
  kView,         // the source itself
  kDense,        // header, then BF16 or FP32 [rows, cols]: values without the tensor scale
  kFp8,          // header, then one byte an element [rows, cols]
  kPackedNvfp4,  // header, swizzled E4M3 scales (padded to 256 bytes), packed E2M1 [rows, cols / 2]
};

class CudaBackend : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(std::unique_ptr<Device> device);

  absl::string_view name() const override { return "cuda"; }
  absl::string_view description() const override { return device_->description(); }
  Support Supports(const OperandFormat& format) const override;

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override {
    return device_->Allocate(bytes);
  }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    device_->CopyToDevice(device, host, bytes);
  }
  void CopyToHost(void* host, const void* device, int64_t bytes) override {
    device_->CopyToHost(host, device, bytes);
  }
  void CopyOnDevice(void* to, const void* from, int64_t bytes) override {
    device_->CopyOnDevice(to, from, bytes);
  }
  void Zero(void* device, int64_t bytes) override { device_->Zero(device, bytes); }
  Fence Record() override { return device_->Record(); }
  absl::Status Wait(Fence fence) override { return device_->Wait(fence); }
  absl::Status Synchronize() override { return device_->Synchronize(); }

  int64_t OperandBytes(const OperandFormat& format, DType source, int64_t rows,
                       int64_t cols) const override;
  Operand PrepareOperand(const OperandRequest& request, void* storage) override;
  bool CanTranspose(const Operand& operand) const override;
  Operand Transposed(const Operand& operand) const override;
  void Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate) override;

  void EmbeddingForward(const int32_t* tokens, Matrix table, Matrix out) override;
  void EmbeddingBackward(const int32_t* tokens, Matrix d_out, Matrix d_table) override;
  void RmsNormForward(const RmsNormArgs& args) override;
  void RmsNormBackward(const RmsNormBackwardArgs& args) override;
  void LayerNormForward(const LayerNormArgs& args) override;
  void LayerNormBackward(const LayerNormBackwardArgs& args) override;
  void AddRows(Matrix out, const float* table, int64_t period) override;
  void AddRowsBackward(Matrix d_out, float* d_table, int64_t period) override;
  void Rope(const RopeArgs& args) override;
  void AttentionForward(const AttentionArgs& args) override;
  void AttentionBackward(const AttentionBackwardArgs& args) override;
  void SwiGluForward(Matrix gate_up, Matrix out) override;
  void SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up) override;
  void ActivationForward(Activation activation, Matrix in, Matrix out) override;
  void ActivationBackward(Activation activation, Matrix d_out, Matrix in, Matrix d_in) override;
  void CausalConvForward(const CausalConvArgs& args) override;
  void CausalConvBackward(const CausalConvBackwardArgs& args) override;
  void ScanForward(const ScanArgs& args) override;
  void ScanBackward(const ScanBackwardArgs& args) override;
  void GatedNormForward(const GatedNormArgs& args) override;
  void GatedNormBackward(const GatedNormBackwardArgs& args) override;
  void LmHead(const LmHeadArgs& args) override;
  void AddInPlace(Matrix out, Matrix in) override;
  void Cast(Matrix from, Matrix to) override;
  void Norm(const float* values, int64_t size, float* norm) override;
  void AdamW(const AdamWArgs& args) override;

  // What op_runner and tests ask beyond Backend; sources and results are on the device.
  // Codes, scales and amax of the NVFP4 quantiser; `scratch` as PrepareOperand's storage.
  void QuantizeCodes(const OperandRequest& request, uint8_t* codes, uint8_t* scales,
                     float* amax_and_decode);
  // [rows, cols] FP32: values without the tensor scale, which goes to *decode.
  void RoundTrip(const OperandRequest& request, float* values, float* decode);
  void Hadamard(const OperandRequest& request, float* values);

 private:
  explicit CudaBackend(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  Form FormOf(const OperandFormat& format, DType source, int64_t rows, int64_t cols) const;
  // At least `bytes` of memory that the operator of one call may use; null after an error.
  enum class Slot : uint8_t { kOperator, kTransform, kLeft, kRight, kProduct, kLogits };
  void* Scratch(Slot slot, int64_t bytes);
  // Quantises into job.out, through a transformed copy where the transform is a large one.
  void RunQuantizer(QuantizeJob job);
  QuantizeJob JobOf(const OperandRequest& request) const;
  // The side of a product, dequantised or widened into scratch where that is asked.
  Product::Side SideOf(const Operand& operand, Storage wanted, Slot slot);
  void MultiplySides(const Operand& a, const Operand& b, Matrix c, bool accumulate);
  bool FitsSharedMemory(int64_t bytes, absl::string_view what);

  const std::unique_ptr<Device> device_;
  std::vector<std::unique_ptr<DeviceBuffer>> scratch_;
  std::unique_ptr<DeviceBuffer> small_;  // amax, alpha
};

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET

#endif  // KERNELS_CUDA_CUDA_BACKEND_H_
