#include <cstring>

#include "base/check.h"
#include "kernels/nvfp4/bf16.h"
#include "worker/interchange/foreign_model.h"
#include "worker/interchange/half.h"

namespace nibble::interchange {
namespace {

float ValueAt(const ForeignTensor& tensor, int64_t index) {
  const char* at = tensor.bytes.data() + index * SizeOf(tensor.type);
  if (tensor.type == ForeignType::kF32) {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return tensor.type == ForeignType::kBF16 ? nvfp4::Bf16ToF32(bits) : HalfToFloat(bits);
}

}  // namespace

void ReadRows(const WeightPiece& piece, const ForeignTensor& tensor, int64_t first, int64_t count,
              float* out) {
  NIBBLE_CHECK(static_cast<int64_t>(tensor.bytes.size()) ==
               piece.rows * piece.cols * SizeOf(tensor.type));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = ForeignRow(piece, first + i);
    for (int64_t col = 0; col < piece.cols; ++col) {
      const int64_t index = piece.transposed ? col * piece.rows + row : row * piece.cols + col;
      out[i * piece.cols + col] = ValueAt(tensor, index);
    }
  }
}

}  // namespace nibble::interchange
