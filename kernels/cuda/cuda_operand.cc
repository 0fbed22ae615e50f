// Operands and products of the CUDA backend.
//
// Everywhere: the operand dequantised to BF16 without its tensor scale, exact for every format, and
// a BF16 product times the scales. Native: FP8 tensor-wise (8.9 and later) and NVFP4 (10.0, 10.3,
// 12.0), where the shape suits the library; an operand whose partner is not native is turned back
// into BF16 before the product.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/hadamard_signs.h"
#include "kernels/nvfp4/swizzle.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

namespace launch = ::nibble::kernels::cuda::NIBBLE_CUDA_TARGET;

// The tensor scale comes first in an operand's storage, the rest behind it.
constexpr int64_t kHeaderBytes = 256;
constexpr int64_t kAlpha = 64;  // where in `small_`, bytes; the amax is at 0

// A Hadamard transform that a thread's 16 elements hold is part of the quantiser.
bool IsFused(const OperandFormat& format) {
  return format.format == Format::kNvfp4 && format.hadamard_size <= 16;
}

int64_t PaddedScaleBytes(int64_t rows, int64_t cols) {
  return (nvfp4::SwizzledBytes(rows, cols / 16) + 255) / 256 * 256;
}

bool HasNativeFp4(int capability) {
  return capability == 100 || capability == 103 || capability == 120;
}
constexpr int kFirstFp8Capability = 89;

bool IsTensorWiseFp8(Format format) { return format == Format::kFp8 || format == Format::kFp8E5m2; }

}  // namespace

Support CudaBackend::Supports(const OperandFormat& format) const {
  if (!IsQuantised(format.format)) {
    OperandFormat plain;
    plain.format = format.format;
    return format == plain ? Support::kNative : Support::kUnsupported;
  }
  const int hadamard = format.hadamard_size;
  if (hadamard != 0 && hadamard != 4 && hadamard != 16 && hadamard != 32 && hadamard != 64 &&
      hadamard != 128) {
    return Support::kUnsupported;
  }
  const bool tiles = format.format == Format::kNvfp4 || format.format == Format::kFp8Block;
  if (format.block_rows != 1 && !(tiles && format.block_rows == BlockSizeOf(format.format))) {
    return Support::kUnsupported;
  }
  if (format.rounding == Rounding::kStochastic && !HasE2m1Elements(format.format)) {
    return Support::kUnsupported;
  }
  if (format.block_target != BlockTarget::kSix &&
      (format.format != Format::kNvfp4 || hadamard != 0 ||
       format.rounding == Rounding::kStochastic)) {
    return Support::kUnsupported;
  }
  const int capability = device_->capability();
  const bool native = (format.format == Format::kNvfp4 && HasNativeFp4(capability)) ||
                      (IsTensorWiseFp8(format.format) && capability >= kFirstFp8Capability);
  return native ? Support::kNative : Support::kEmulated;
}

Form CudaBackend::FormOf(const OperandFormat& format, DType source, int64_t rows,
                         int64_t cols) const {
  if (!IsQuantised(format.format)) {
    return source == DType::kF32 && format.format == Format::kBF16 ? Form::kDense : Form::kView;
  }
  if (Supports(format) == Support::kNative) {
    if (format.format == Format::kNvfp4 && rows % 32 == 0 && cols % 32 == 0) {
      return Form::kPackedNvfp4;
    }
    if (IsTensorWiseFp8(format.format) && rows % 16 == 0 && cols % 16 == 0) return Form::kFp8;
  }
  return Form::kDense;
}

int64_t CudaBackend::OperandBytes(const OperandFormat& format, DType source, int64_t rows,
                                  int64_t cols) const {
  switch (FormOf(format, source, rows, cols)) {
    case Form::kView:
      return 0;
    case Form::kDense:
      return kHeaderBytes + rows * cols * 2;
    case Form::kFp8:
      return kHeaderBytes + rows * cols;
    case Form::kPackedNvfp4:
      break;
  }
  // Rows and columns may be those of the source or of its transpose.
  return kHeaderBytes + std::max(PaddedScaleBytes(rows, cols), PaddedScaleBytes(cols, rows)) +
         rows * cols / 2;
}

QuantizeJob CudaBackend::JobOf(const OperandRequest& request) const {
  QuantizeJob job;
  job.source = request.source.data;
  job.source_type = request.source.dtype;
  job.transpose = request.transpose;
  job.rows = request.transpose ? request.source.cols : request.source.rows;
  job.cols = request.transpose ? request.source.rows : request.source.cols;
  job.format = request.format;
  job.signs = SignsOf(request.format, request.key.step);
  job.key = request.key;
  job.amax_bits = static_cast<uint32_t*>(small_->data());
  return job;
}

void CudaBackend::RunQuantizer(QuantizeJob job) {
  const OperandFormat& format = job.format;
  NIBBLE_CHECK(format.format != Format::kNvfp4 ||
               (job.cols % 16 == 0 && job.rows % format.block_rows == 0));
  NIBBLE_CHECK(format.rounding == Rounding::kNearest ||
               (HasE2m1Elements(format.format) && job.cols % 16 == 0));
  if (format.hadamard_size != 0 && !IsFused(format)) {
    NIBBLE_CHECK(job.cols % format.hadamard_size == 0);
    QuantizeJob transform = job;
    transform.output = QuantizeOutput::kBF16;
    transform.out = Scratch(Slot::kTransform, job.rows * job.cols * 2);
    if (transform.out == nullptr) return;
    HadamardTransform(device_->stream(), transform);
    job.source = transform.out;
    job.source_type = DType::kBF16;
    job.transpose = false;
    job.format.hadamard_size = 0;
  }
  const bool nvfp4 = format.format == Format::kNvfp4;
  if (nvfp4 || BlockSizeOf(format.format) == 0) {
    device_->Zero(job.amax_bits, 4);
    MeasureAmax(device_->stream(), job);
  }
  if (nvfp4) {
    QuantizeNvfp4(device_->stream(), job);
  } else {
    void* scratch = Scratch(Slot::kOperator, ScaledScratchBytes(job));
    if (scratch == nullptr) return;
    QuantizeScaled(device_->stream(), job, scratch);
  }
  device_->CheckLaunch("PrepareOperand");
}

Operand CudaBackend::PrepareOperand(const OperandRequest& request, void* storage) {
  const Matrix& source = request.source;
  QuantizeJob job = JobOf(request);
  Operand operand;
  operand.format = request.format;
  operand.rows = job.rows;
  operand.cols = job.cols;
  const Form form = FormOf(request.format, source.dtype, job.rows, job.cols);
  if (form == Form::kView) {
    operand.data = source.data;
    operand.storage = source.dtype;
    operand.transposed = request.transpose;
    return operand;
  }
  NIBBLE_CHECK(storage != nullptr);
  char* elements = static_cast<char*>(storage) + kHeaderBytes;
  operand.storage = DType::kBF16;
  if (request.format.format == Format::kBF16) {
    operand.data = elements;
    operand.transposed = request.transpose;
    Cast(source, {elements, DType::kBF16, source.rows, source.cols});
    return operand;
  }
  job.decode = static_cast<float*>(storage);
  job.output = form == Form::kDense ? QuantizeOutput::kBF16 : QuantizeOutput::kCodes;
  if (form == Form::kPackedNvfp4) {
    job.scales = reinterpret_cast<uint8_t*>(elements);
    job.swizzled = true;
    const int64_t scale_bytes = PaddedScaleBytes(job.rows, job.cols);
    // Padding is read by the product.
    device_->Zero(job.scales, scale_bytes);
    elements += scale_bytes;
  }
  job.out = elements;
  operand.data = elements;
  operand.tensor_scale = job.decode;
  RunQuantizer(job);
  return operand;
}

bool CudaBackend::CanTranspose(const Operand& operand) const {
  const Form form = FormOf(operand.format, operand.storage, operand.rows, operand.cols);
  return SurvivesTransposition(operand.format) && (form == Form::kView || form == Form::kDense);
}

Operand CudaBackend::Transposed(const Operand& operand) const {
  NIBBLE_CHECK(CanTranspose(operand));
  Operand result = operand;
  result.rows = operand.cols;
  result.cols = operand.rows;
  result.transposed = !operand.transposed;
  return result;
}

Product::Side CudaBackend::SideOf(const Operand& operand, Storage wanted, Slot slot) {
  Product::Side side;
  side.data = operand.data;
  side.storage = operand.storage == DType::kBF16 ? Storage::kBF16 : Storage::kF32;
  side.stride = operand.transposed ? operand.rows : operand.cols;
  side.transposed = operand.transposed;
  const Form form = FormOf(operand.format, operand.storage, operand.rows, operand.cols);
  const bool native = form == Form::kFp8 || form == Form::kPackedNvfp4;
  const uint8_t* scales = reinterpret_cast<const uint8_t*>(operand.tensor_scale) + kHeaderBytes;
  if (native && wanted != Storage::kBF16 && wanted != Storage::kF32) {
    side.storage = wanted;
    side.block_scales = form == Form::kPackedNvfp4 ? scales : nullptr;
    return side;
  }
  if (native) {
    DequantizeJob job;
    job.format = operand.format;
    job.rows = operand.rows;
    job.cols = operand.cols;
    job.codes = static_cast<const uint8_t*>(operand.data);
    job.scales = form == Form::kPackedNvfp4 ? scales : nullptr;
    job.out = static_cast<uint16_t*>(Scratch(slot, operand.rows * operand.cols * 2));
    side.data = job.out;
    side.storage = Storage::kBF16;
    if (job.out == nullptr) return side;
    Dequantize(device_->stream(), job);
    device_->CheckLaunch("Dequantize");
  }
  if (wanted == Storage::kF32 && side.storage == Storage::kBF16) {
    // Behind what was just dequantised, if anything was.
    const int64_t size = operand.rows * operand.cols;
    void* wide = Scratch(native ? Slot::kTransform : slot, size * 4);
    if (wide != nullptr) {
      Cast({const_cast<void*>(side.data), DType::kBF16, 1, size}, {wide, DType::kF32, 1, size});
    }
    side.data = wide;
    side.storage = Storage::kF32;
  }
  return side;
}

namespace {

// What both sides are read as.
struct Sides {
  Storage a, b;
};

Storage NativeStorage(const Operand& operand) {
  if (operand.format.format == Format::kNvfp4) return Storage::kPackedE2m1;
  return operand.format.format == Format::kFp8 ? Storage::kE4m3 : Storage::kE5m2;
}

}  // namespace

void CudaBackend::MultiplySides(const Operand& a, const Operand& b, Matrix c, bool accumulate) {
  const Form form_a = FormOf(a.format, a.storage, a.rows, a.cols);
  const Form form_b = FormOf(b.format, b.storage, b.rows, b.cols);
  // The library has no product of two E5M2 operands.
  const bool native =
      form_a == form_b &&
      (form_a == Form::kPackedNvfp4 || (form_a == Form::kFp8 && (a.format.format == Format::kFp8 ||
                                                                 b.format.format == Format::kFp8)));
  Sides sides = {Storage::kBF16, Storage::kBF16};
  if (native) {
    sides = {NativeStorage(a), NativeStorage(b)};
  } else if (a.storage == DType::kF32 || b.storage == DType::kF32) {
    sides = {Storage::kF32, Storage::kF32};
  }
  Product product;
  product.m = a.rows;
  product.n = b.rows;
  product.k = a.cols;
  product.a = SideOf(a, sides.a, Slot::kLeft);
  product.b = SideOf(b, sides.b, Slot::kRight);
  if (product.a.data == nullptr || product.b.data == nullptr) return;
  product.c = c.data;
  product.c_type = c.dtype;
  product.c_stride = c.cols;
  product.accumulate = accumulate;
  product.alpha = a.tensor_scale != nullptr ? a.tensor_scale : b.tensor_scale;
  const bool two_scales = a.tensor_scale != nullptr && b.tensor_scale != nullptr;
  ScaleJob scales;
  if (two_scales) {
    scales.a = a.tensor_scale;
    scales.b = b.tensor_scale;
    scales.alpha = reinterpret_cast<float*>(static_cast<char*>(small_->data()) + kAlpha);
    scales.keep_subnormals = native;
    CombineScales(device_->stream(), scales);
    device_->CheckLaunch("Multiply");
    product.alpha = scales.alpha;
  }
  device_->Multiply(product);
  if (!two_scales || native) return;
  LateScaleJob late;
  late.scales = scales;
  late.a = product.a.data;
  late.b = product.b.data;
  late.a_transposed = product.a.transposed;
  late.b_transposed = product.b.transposed;
  late.m = product.m;
  late.n = product.n;
  late.k = product.k;
  late.c = c;
  late.accumulate = accumulate;
  MultiplyLateScaled(device_->stream(), late);
  device_->CheckLaunch("Multiply");
}

void CudaBackend::Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate) {
  NIBBLE_CHECK(a.cols == b.cols && c.rows == a.rows && c.cols == b.rows);
  NIBBLE_CHECK(!accumulate || c.dtype == DType::kF32);
  if (c.dtype == DType::kF32 || (a.storage != DType::kF32 && b.storage != DType::kF32)) {
    MultiplySides(a, b, c, accumulate);
    return;
  }
  // The library has no product of FP32 operands with a BF16 result.
  Matrix wide = {Scratch(Slot::kProduct, c.size() * 4), DType::kF32, c.rows, c.cols};
  if (wide.data == nullptr) return;
  MultiplySides(a, b, wide, false);
  Cast(wide, c);
}

void CudaBackend::QuantizeCodes(const OperandRequest& request, uint8_t* codes, uint8_t* scales,
                                float* amax_and_decode) {
  QuantizeJob job = JobOf(request);
  job.amax_bits = reinterpret_cast<uint32_t*>(amax_and_decode);
  job.decode = amax_and_decode + 1;
  job.output = QuantizeOutput::kCodes;
  job.out = codes;
  job.scales = scales;
  RunQuantizer(job);
}

void CudaBackend::RoundTrip(const OperandRequest& request, float* values, float* decode) {
  QuantizeJob job = JobOf(request);
  job.decode = decode;
  job.output = QuantizeOutput::kF32;
  job.out = values;
  RunQuantizer(job);
}

void CudaBackend::Hadamard(const OperandRequest& request, float* values) {
  QuantizeJob job = JobOf(request);
  NIBBLE_CHECK(job.cols % request.format.hadamard_size == 0);
  job.output = QuantizeOutput::kF32;
  job.out = values;
  HadamardTransform(device_->stream(), job);
  device_->CheckLaunch("Hadamard");
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
