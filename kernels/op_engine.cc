#include "kernels/op_engine.h"

#include "base/status_macros.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/operand.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/cuda_factory.h"
#include "kernels/nvfp4/bf16.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/reference/operand.h"
#include "kernels/reference/quantize.h"

namespace nibble::kernels {
namespace {

int64_t RowsOf(const OperandRequest& r) { return r.transpose ? r.source.cols : r.source.rows; }
int64_t ColsOf(const OperandRequest& r) { return r.transpose ? r.source.rows : r.source.cols; }

// [rows, cols] from the source's layout.
template <class T>
std::vector<T> InOperandLayout(const OperandRequest& request, std::vector<T> values) {
  if (!request.transpose) return values;
  const int64_t rows = RowsOf(request);
  const int64_t cols = ColsOf(request);
  std::vector<T> result(values.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) result[r * cols + c] = values[c * rows + r];
  }
  return result;
}

std::vector<uint8_t> Packed(const std::vector<uint8_t>& codes) {
  std::vector<uint8_t> packed(codes.size() / 2);
  for (int64_t i = 0; i < static_cast<int64_t>(packed.size()); ++i) {
    packed[i] = nvfp4::PackE2m1(codes[2 * i], codes[2 * i + 1]);
  }
  return packed;
}

class ReferenceEngine : public OpEngine {
 public:
  PackedNvfp4 Quantize(const OperandRequest& request) override {
    reference::QuantizedMatrix q = reference::Quantize(request);
    return {q.rows, q.cols, q.amax, q.decode, Packed(q.codes), std::move(q.scales)};
  }
  std::vector<float> RoundTrip(const OperandRequest& request) override {
    std::vector<char> storage(reference::OperandBytes(request.format, request.source.dtype,
                                                      request.source.rows, request.source.cols));
    return DequantizedValues(reference::PrepareOperand(request, storage.data()));
  }
  std::vector<float> Hadamard(const OperandRequest& request) override {
    return reference::QuantizerInput(request);
  }
};

class CpuEngine : public OpEngine {
 public:
  CpuEngine(int threads, cpu::Isa isa)
      : pool_(threads),
        scratch_(threads),
        context_{pool_, scratch_, /*native_bf16=*/false},
        operands_(context_, isa) {}

  PackedNvfp4 Quantize(const OperandRequest& request) override {
    cpu::QuantizedSource q = operands_.Quantize(request);
    PackedNvfp4 result;
    result.rows = RowsOf(request);
    result.cols = ColsOf(request);
    result.amax = q.amax;
    result.decode = q.decode;
    result.codes = Packed(InOperandLayout(request, std::move(q.codes)));
    result.scales = std::move(q.scales);
    if (request.format.block_rows == 16 && !request.transpose) {
      // One scale a tile: repeated for its rows.
      const int64_t across = result.cols / 16;
      std::vector<uint8_t> repeated(result.rows * across);
      for (int64_t r = 0; r < result.rows; ++r) {
        for (int64_t c = 0; c < across; ++c) {
          repeated[r * across + c] = result.scales[r / 16 * across + c];
        }
      }
      result.scales = std::move(repeated);
    }
    return result;
  }

  std::vector<float> RoundTrip(const OperandRequest& request) override {
    std::vector<char> storage(operands_.Bytes(request.format, request.source.dtype,
                                              request.source.rows, request.source.cols));
    return DequantizedValues(operands_.Prepare(request, storage.data()));
  }

  std::vector<float> Hadamard(const OperandRequest& request) override {
    std::vector<float> out(request.source.size());
    operands_.Hadamard(request, out.data());
    return InOperandLayout(request, std::move(out));
  }

 private:
  cpu::ThreadPool pool_;
  cpu::Scratch scratch_;
  cpu::OpContext context_;
  cpu::Operands operands_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<OpEngine>> CreateOpEngine(absl::string_view backend,
                                                         const BackendOptions& options) {
  if (backend == "cuda") return cuda::CreateCudaEngine();
  // For its checks of the name and of the options.
  NIBBLE_RETURN_IF_ERROR(CreateBackend(backend, options).status());
  if (backend == "reference") return std::make_unique<ReferenceEngine>();
  NIBBLE_ASSIGN_OR_RETURN(const cpu::Isa isa, cpu::ChooseIsa());
  return std::make_unique<CpuEngine>(options.threads == 0 ? 1 : options.threads, isa);
}

std::vector<float> DequantizedValues(const Operand& operand) {
  std::vector<float> values(operand.rows * operand.cols);
  const float scale = operand.tensor_scale == nullptr ? 1.0f : *operand.tensor_scale;
  for (int64_t r = 0; r < operand.rows; ++r) {
    for (int64_t c = 0; c < operand.cols; ++c) {
      const int64_t at = operand.transposed ? c * operand.rows + r : r * operand.cols + c;
      const float value = operand.storage == DType::kBF16
                              ? nvfp4::Bf16ToF32(static_cast<const uint16_t*>(operand.data)[at])
                              : static_cast<const float*>(operand.data)[at];
      values[r * operand.cols + c] = value * scale;
    }
  }
  return values;
}

}  // namespace nibble::kernels
