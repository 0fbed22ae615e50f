#include "kernels/reference/operand.h"

#include <vector>

#include "base/check.h"
#include "kernels/nvfp4/bf16.h"
#include "kernels/product_scale.h"
#include "kernels/reference/ops.h"
#include "kernels/reference/quantize.h"

namespace nibble::kernels::reference {
namespace {

// The tensor scale comes first in an operand's storage, the elements behind it.
constexpr int64_t kHeaderBytes = 256;

bool IsView(const OperandFormat& format, DType source) {
  return format.format == Format::kF32 ||
         (format.format == Format::kBF16 && source == DType::kBF16);
}

// Returns the tensor scale.
template <class Quantized>
float WriteValues(const Quantized& quantized, float* values) {
  for (int64_t r = 0; r < quantized.rows; ++r) {
    for (int64_t c = 0; c < quantized.cols; ++c) {
      values[r * quantized.cols + c] = quantized.ValueAt(r, c);
    }
  }
  return quantized.decode;
}

std::vector<double> Values(const Operand& operand) {
  std::vector<double> values(operand.rows * operand.cols);
  for (int64_t r = 0; r < operand.rows; ++r) {
    for (int64_t c = 0; c < operand.cols; ++c) values[r * operand.cols + c] = Get(operand, r, c);
  }
  return values;
}

}  // namespace

int64_t OperandBytes(const OperandFormat& format, DType source, int64_t rows, int64_t cols) {
  return IsView(format, source) ? 0 : kHeaderBytes + rows * cols * SizeOf(DType::kF32);
}

Operand PrepareOperand(const OperandRequest& request, void* storage) {
  const Matrix& source = request.source;
  Operand operand;
  operand.format = request.format;
  operand.rows = request.transpose ? source.cols : source.rows;
  operand.cols = request.transpose ? source.rows : source.cols;
  if (IsView(request.format, source.dtype)) {
    operand.data = source.data;
    operand.storage = source.dtype;
    operand.transposed = request.transpose;
    return operand;
  }
  NIBBLE_CHECK(storage != nullptr);
  float* tensor_scale = static_cast<float*>(storage);
  float* values = tensor_scale + kHeaderBytes / sizeof(float);
  operand.data = values;
  operand.storage = DType::kF32;
  if (request.format.format == Format::kBF16) {
    const std::vector<float> x = QuantizerInput(request);
    for (int64_t i = 0; i < source.size(); ++i) values[i] = nvfp4::RoundToBf16(x[i]);
    return operand;
  }
  *tensor_scale = request.format.format == Format::kNvfp4
                      ? WriteValues(Quantize(request), values)
                      : WriteValues(QuantizeScaled(request), values);
  operand.tensor_scale = tensor_scale;
  return operand;
}

Operand Transposed(const Operand& operand) {
  NIBBLE_CHECK(SurvivesTransposition(operand.format));
  Operand result = operand;
  result.rows = operand.cols;
  result.cols = operand.rows;
  result.transposed = !operand.transposed;
  return result;
}

void Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate) {
  NIBBLE_CHECK(a.cols == b.cols && c.rows == a.rows && c.cols == b.rows);
  NIBBLE_CHECK(!accumulate || c.dtype == DType::kF32);
  const std::vector<double> left = Values(a);
  const std::vector<double> right = Values(b);
  const ProductScale scale = ProductScaleOf(a, b);
  const int64_t depth = a.cols;
  for (int64_t m = 0; m < c.rows; ++m) {
    for (int64_t n = 0; n < c.cols; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) sum += left[m * depth + k] * right[n * depth + k];
      sum = sum * scale.first * scale.second;
      if (accumulate) sum += Get(c, m, n);
      Set(c, m, n, static_cast<float>(sum));
    }
  }
}

}  // namespace nibble::kernels::reference
