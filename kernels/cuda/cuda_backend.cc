// The operators: each checks what its kernels need, takes scratch memory and enqueues. Products and
// operands: cuda_operand.cc.
#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

namespace launch = ::nibble::kernels::cuda::NIBBLE_CUDA_TARGET;

constexpr int kSlots = 6;
constexpr int64_t kSmallBytes = 4096;
// Logits in flight: rows of the head are taken in chunks of so many bytes of FP32.
constexpr int64_t kLogitBytes = int64_t{256} << 20;
constexpr int64_t kLogitRowAlignment = 64;  // floats: rows of logits start at 256 bytes
constexpr int64_t kLeastLogitRows = 128;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Create(std::unique_ptr<Device> device) {
  std::unique_ptr<CudaBackend> backend(new CudaBackend(std::move(device)));
  backend->scratch_.resize(kSlots);
  NIBBLE_ASSIGN_OR_RETURN(backend->small_, backend->device_->Allocate(kSmallBytes));
  return backend;
}

void* CudaBackend::Scratch(Slot slot, int64_t bytes) {
  std::unique_ptr<DeviceBuffer>& buffer = scratch_[static_cast<int>(slot)];
  if (buffer != nullptr && buffer->bytes() >= bytes) return buffer->data();
  // What is enqueued may still use the smaller one.
  device_->Synchronize().IgnoreError();
  buffer.reset();
  auto larger = device_->Allocate(std::max<int64_t>(bytes, 256));
  if (!larger.ok()) {
    device_->Fail(larger.status());
    return nullptr;
  }
  buffer = *std::move(larger);
  return buffer->data();
}

bool CudaBackend::FitsSharedMemory(int64_t bytes, absl::string_view what) {
  // 227 KiB a block on 9.0 and 10.x, 99 KiB on 12.x; a little of it is taken by fixed arrays.
  const int64_t limit = (device_->capability() >= 120 ? 98 : 224) * 1024;
  if (bytes <= limit) return true;
  device_->Fail(absl::UnimplementedError(absl::StrCat("backend cuda, ", what, ": a block needs ",
                                                      bytes, " bytes of shared memory, ",
                                                      device_->description(), " has ", limit)));
  return false;
}

void CudaBackend::EmbeddingForward(const int32_t* tokens, Matrix table, Matrix out) {
  NIBBLE_CHECK(table.cols == out.cols && table.dtype == out.dtype);
  launch::EmbeddingForward(device_->stream(), tokens, table, out);
  device_->CheckLaunch("EmbeddingForward");
}

void CudaBackend::EmbeddingBackward(const int32_t* tokens, Matrix d_out, Matrix d_table) {
  NIBBLE_CHECK(d_table.cols == d_out.cols && d_table.dtype == DType::kF32);
  NIBBLE_CHECK(d_out.rows <= INT32_MAX);
  void* scratch = Scratch(Slot::kOperator, EmbeddingScratchBytes(d_out.rows));
  if (scratch == nullptr) return;
  launch::EmbeddingBackward(device_->stream(), tokens, d_out, d_table, scratch);
  device_->CheckLaunch("EmbeddingBackward");
}

void CudaBackend::RmsNormForward(const RmsNormArgs& args) {
  launch::RmsNormForward(device_->stream(), args);
  device_->CheckLaunch("RmsNormForward");
}

void CudaBackend::RmsNormBackward(const RmsNormBackwardArgs& args) {
  void* scratch =
      Scratch(Slot::kOperator, NormBackwardScratchBytes(args.input.rows, args.input.cols));
  if (scratch == nullptr || !FitsSharedMemory(4 * args.input.cols, "RmsNormBackward")) return;
  launch::RmsNormBackward(device_->stream(), args, scratch);
  device_->CheckLaunch("RmsNormBackward");
}

void CudaBackend::LayerNormForward(const LayerNormArgs& args) {
  launch::LayerNormForward(device_->stream(), args);
  device_->CheckLaunch("LayerNormForward");
}

void CudaBackend::LayerNormBackward(const LayerNormBackwardArgs& args) {
  void* scratch =
      Scratch(Slot::kOperator, NormBackwardScratchBytes(args.input.rows, args.input.cols));
  if (scratch == nullptr || !FitsSharedMemory(8 * args.input.cols, "LayerNormBackward")) return;
  launch::LayerNormBackward(device_->stream(), args, scratch);
  device_->CheckLaunch("LayerNormBackward");
}

void CudaBackend::AddRows(Matrix out, const float* table, int64_t period) {
  launch::AddRows(device_->stream(), out, table, period);
  device_->CheckLaunch("AddRows");
}

void CudaBackend::AddRowsBackward(Matrix d_out, float* d_table, int64_t period) {
  void* scratch = Scratch(Slot::kOperator, AddRowsScratchBytes(d_out, period));
  if (scratch == nullptr) return;
  launch::AddRowsBackward(device_->stream(), d_out, d_table, period, scratch);
  device_->CheckLaunch("AddRowsBackward");
}

void CudaBackend::Rope(const RopeArgs& args) {
  launch::Rope(device_->stream(), args);
  device_->CheckLaunch("Rope");
}

void CudaBackend::AttentionForward(const AttentionArgs& args) {
  const int64_t head_size = args.shape.head_size;
  if (head_size > kMaxHeadSize) {
    device_->Fail(absl::UnimplementedError(absl::StrCat("backend cuda, attention: head_size is ",
                                                        head_size, "; at most ", kMaxHeadSize)));
    return;
  }
  if (!FitsSharedMemory(AttentionSharedBytes(args.qkv.dtype, head_size), "attention")) return;
  launch::AttentionForward(device_->stream(), args);
  device_->CheckLaunch("AttentionForward");
}

void CudaBackend::AttentionBackward(const AttentionBackwardArgs& args) {
  const int64_t shared = AttentionBackwardSharedBytes(args.qkv.dtype, args.shape.head_size);
  if (!FitsSharedMemory(shared, "attention backward")) return;
  void* scratch = Scratch(Slot::kOperator, AttentionBackwardScratchBytes(args.shape));
  if (scratch == nullptr) return;
  launch::AttentionBackward(device_->stream(), args, scratch);
  device_->CheckLaunch("AttentionBackward");
}

void CudaBackend::SwiGluForward(Matrix gate_up, Matrix out) {
  NIBBLE_CHECK(gate_up.cols == 2 * out.cols);
  launch::SwiGluForward(device_->stream(), gate_up, out);
  device_->CheckLaunch("SwiGluForward");
}

void CudaBackend::SwiGluBackward(Matrix d_out, Matrix gate_up, Matrix d_gate_up) {
  launch::SwiGluBackward(device_->stream(), d_out, gate_up, d_gate_up);
  device_->CheckLaunch("SwiGluBackward");
}

void CudaBackend::ActivationForward(Activation activation, Matrix in, Matrix out) {
  launch::ActivationForward(device_->stream(), activation, in, out);
  device_->CheckLaunch("ActivationForward");
}

void CudaBackend::ActivationBackward(Activation activation, Matrix d_out, Matrix in, Matrix d_in) {
  launch::ActivationBackward(device_->stream(), activation, d_out, in, d_in);
  device_->CheckLaunch("ActivationBackward");
}

void CudaBackend::CausalConvForward(const CausalConvArgs& args) {
  launch::CausalConvForward(device_->stream(), args);
  device_->CheckLaunch("CausalConvForward");
}

void CudaBackend::CausalConvBackward(const CausalConvBackwardArgs& args) {
  void* scratch = Scratch(Slot::kOperator, CausalConvScratchBytes(args.shape));
  if (scratch == nullptr) return;
  launch::CausalConvBackward(device_->stream(), args, scratch);
  device_->CheckLaunch("CausalConvBackward");
}

void CudaBackend::ScanForward(const ScanArgs& args) {
  void* scratch = Scratch(Slot::kOperator, ScanScratchBytes(args.shape));
  if (scratch == nullptr || !FitsSharedMemory(ScanSharedBytes(args.shape), "scan")) return;
  launch::ScanForward(device_->stream(), args, scratch);
  device_->CheckLaunch("ScanForward");
}

void CudaBackend::ScanBackward(const ScanBackwardArgs& args) {
  void* scratch = Scratch(Slot::kOperator, ScanBackwardScratchBytes(args.shape));
  if (scratch == nullptr || !FitsSharedMemory(ScanSharedBytes(args.shape), "scan")) return;
  launch::ScanBackward(device_->stream(), args, scratch);
  device_->CheckLaunch("ScanBackward");
}

void CudaBackend::GatedNormForward(const GatedNormArgs& args) {
  launch::GatedNormForward(device_->stream(), args);
  device_->CheckLaunch("GatedNormForward");
}

void CudaBackend::GatedNormBackward(const GatedNormBackwardArgs& args) {
  const MambaShape& shape = args.shape;
  void* scratch = Scratch(Slot::kOperator, NormBackwardScratchBytes(shape.tokens(), shape.inner()));
  if (scratch == nullptr || !FitsSharedMemory(4 * shape.group_width(), "GatedNormBackward")) return;
  launch::GatedNormBackward(device_->stream(), args, scratch);
  device_->CheckLaunch("GatedNormBackward");
}

void CudaBackend::LmHead(const LmHeadArgs& args) {
  const Operand& weight = args.weight;
  const int64_t vocabulary = weight.rows, width = weight.cols;
  NIBBLE_CHECK(weight.tensor_scale == nullptr && weight.storage == args.x.dtype);
  const int64_t stride = RoundUp(vocabulary, kLogitRowAlignment);
  const int64_t fitting = kLogitBytes / (stride * 4) / kLeastLogitRows * kLeastLogitRows;
  const int64_t chunk = std::min(args.x.rows, std::max(fitting, kLeastLogitRows));
  float* logits = static_cast<float*>(Scratch(Slot::kLogits, chunk * stride * 4));
  if (logits == nullptr) return;
  const Storage storage = args.x.dtype == DType::kBF16 ? Storage::kBF16 : Storage::kF32;
  const int64_t element = SizeOf(args.x.dtype);
  const int64_t weight_stride = weight.transposed ? vocabulary : width;
  for (int64_t first = 0; first < args.x.rows; first += chunk) {
    const int64_t rows = std::min(chunk, args.x.rows - first);
    char* x = static_cast<char*>(args.x.data) + first * width * element;
    device_->Multiply({.m = rows,
                       .n = vocabulary,
                       .k = width,
                       .a = {x, storage, width, false, nullptr},
                       .b = {weight.data, storage, weight_stride, weight.transposed, nullptr},
                       .c = logits,
                       .c_type = DType::kF32,
                       .c_stride = stride});
    launch::CrossEntropy(device_->stream(), args, {logits, stride, first, rows});
    device_->CheckLaunch("LmHead");
    if (args.d_x.data == nullptr) continue;
    const int64_t gradient_stride = stride * 4 / element;
    device_->Multiply({.m = rows,
                       .n = width,
                       .k = vocabulary,
                       .a = {logits, storage, gradient_stride, false, nullptr},
                       .b = {weight.data, storage, weight_stride, !weight.transposed, nullptr},
                       .c = static_cast<char*>(args.d_x.data) + first * width * element,
                       .c_type = args.d_x.dtype,
                       .c_stride = width});
    device_->Multiply({.m = vocabulary,
                       .n = width,
                       .k = rows,
                       .a = {logits, storage, gradient_stride, true, nullptr},
                       .b = {x, storage, width, true, nullptr},
                       .c = args.d_weight,
                       .c_type = DType::kF32,
                       .c_stride = width,
                       .accumulate = true});
  }
}

void CudaBackend::AddInPlace(Matrix out, Matrix in) {
  NIBBLE_CHECK(out.size() == in.size() && out.dtype == in.dtype);
  launch::AddInPlace(device_->stream(), out, in);
  device_->CheckLaunch("AddInPlace");
}

void CudaBackend::Cast(Matrix from, Matrix to) {
  NIBBLE_CHECK(from.size() == to.size());
  launch::Cast(device_->stream(), from, to);
  device_->CheckLaunch("Cast");
}

void CudaBackend::Norm(const float* values, int64_t size, float* norm) {
  void* scratch = Scratch(Slot::kOperator, NormScratchBytes(size));
  if (scratch == nullptr) return;
  launch::Norm(device_->stream(), values, size, norm, scratch);
  device_->CheckLaunch("Norm");
}

void CudaBackend::AdamW(const AdamWArgs& args) {
  launch::AdamW(device_->stream(), args);
  device_->CheckLaunch("AdamW");
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
