// The quantisers of FP8 and of the MX formats.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/nvfp4/block_scales.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/e4m3.h"
#include "kernels/nvfp4/e5m2.h"
#include "kernels/nvfp4/rounding.h"
#include "kernels/reference/quantize.h"

namespace nibble::kernels::reference {
namespace {

// A rectangle of the operand.
struct Block {
  int64_t row, col, rows, cols;
};

float AbsMax(const std::vector<float>& x, int64_t stride, const Block& block) {
  float amax = 0;
  for (int64_t r = block.row; r < block.row + block.rows; ++r) {
    for (int64_t c = block.col; c < block.col + block.cols; ++c) {
      const float magnitude = std::fabs(x[r * stride + c]);
      if (std::isnan(magnitude)) return magnitude;
      if (magnitude > amax) amax = magnitude;
    }
  }
  return amax;
}

nvfp4::BlockScale ScaleOf(Format format, float amax) {
  switch (format) {
    case Format::kMxfp4:
      return nvfp4::E8m0ScaleOf(amax, 1.0f / nvfp4::kE2m1Max);
    case Format::kMxfp8:
      return nvfp4::E8m0ScaleOf(amax, 1.0f / nvfp4::kE4m3Max);
    case Format::kFp8Block:
      return nvfp4::PowerOfTwoScaleOf(amax, nvfp4::kE4m3Max);
    case Format::kFp8E5m2:
      return nvfp4::TensorWiseScaleOf(amax, nvfp4::kE5m2Max);
    default:
      NIBBLE_CHECK(format == Format::kFp8);
      return nvfp4::TensorWiseScaleOf(amax, nvfp4::kE4m3Max);
  }
}

uint8_t RandomByteOf(const StochasticKey& key, int64_t row, int64_t col) {
  const int64_t group = (key.first_row + row) * (key.total_cols / 16) + (key.first_col + col) / 16;
  const PhiloxResult random = nvfp4::BlockRandom(key.seed, key.tensor_id, key.step, group);
  return nvfp4::RandomByte(random, static_cast<int>(col % 16));
}

float Rounded(const OperandRequest& request, float y, int64_t row, int64_t col) {
  if (request.format.format == Format::kFp8E5m2) return nvfp4::E5m2ToF32(nvfp4::F32ToE5m2(y));
  if (!HasE2m1Elements(request.format.format)) return nvfp4::E4m3ToF32(nvfp4::F32ToE4m3(y));
  const bool stochastic = request.format.rounding == Rounding::kStochastic;
  return nvfp4::E2m1ToF32(stochastic
                              ? nvfp4::RoundStochastic(y, RandomByteOf(request.key, row, col))
                              : nvfp4::RoundNearest(y));
}

}  // namespace

float ScaledMatrix::ScaleAt(int64_t row, int64_t col) const {
  const int64_t across = (cols + block_cols - 1) / block_cols;
  return scales[row / block_rows * across + col / block_cols];
}

float ScaledMatrix::ValueAt(int64_t row, int64_t col) const {
  return elements[row * cols + col] * ScaleAt(row, col);
}

ScaledMatrix QuantizeScaled(const OperandRequest& request, const nvfp4::BlockScale* tensor) {
  const OperandFormat& format = request.format;
  const std::vector<float> x = QuantizerInput(request);
  ScaledMatrix out;
  out.rows = request.transpose ? request.source.cols : request.source.rows;
  out.cols = request.transpose ? request.source.rows : request.source.cols;
  NIBBLE_CHECK(format.rounding == Rounding::kNearest ||
               (HasE2m1Elements(format.format) && out.cols % 16 == 0));
  const bool whole = BlockSizeOf(format.format) == 0;
  out.block_rows = whole ? out.rows : format.block_rows;
  out.block_cols = whole ? out.cols : BlockSizeOf(format.format);
  out.amax = AbsMax(x, out.cols, {0, 0, out.rows, out.cols});
  out.elements.resize(out.rows * out.cols);
  for (int64_t row = 0; row < out.rows; row += out.block_rows) {
    for (int64_t col = 0; col < out.cols; col += out.block_cols) {
      const Block block = {row, col, std::min(out.block_rows, out.rows - row),
                           std::min(out.block_cols, out.cols - col)};
      const nvfp4::BlockScale scale =
          whole && tensor != nullptr ? *tensor : ScaleOf(format.format, AbsMax(x, out.cols, block));
      out.scales.push_back(whole ? 1.0f : scale.decode);
      if (whole) out.decode = scale.decode;
      for (int64_t r = row; r < row + block.rows; ++r) {
        for (int64_t c = col; c < col + block.cols; ++c) {
          const int64_t at = r * out.cols + c;
          out.elements[at] = Rounded(request, x[at] * scale.encode, r, c);
        }
      }
    }
  }
  return out;
}

}  // namespace nibble::kernels::reference
