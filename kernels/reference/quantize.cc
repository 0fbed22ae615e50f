#include "kernels/reference/quantize.h"

#include <cmath>

#include "base/check.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/hadamard.h"
#include "kernels/nvfp4/rounding.h"
#include "kernels/nvfp4/scales.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {
namespace {

using nvfp4::kBlockSize;

// The largest magnitude of a rectangle; NaN where one element is.
float AbsMax(const std::vector<float>& x, int64_t cols, int64_t row, int64_t col, int64_t height,
             int64_t width) {
  float amax = 0;
  for (int64_t r = row; r < row + height; ++r) {
    for (int64_t c = col; c < col + width; ++c) {
      const float magnitude = std::fabs(x[r * cols + c]);
      if (std::isnan(magnitude)) return magnitude;
      if (magnitude > amax) amax = magnitude;
    }
  }
  return amax;
}

// One block of 16 elements with the scale of its block or tile.
void QuantizeBlock(const OperandRequest& request, const float* x, int64_t row, int64_t col,
                   QuantizedMatrix* out) {
  const uint8_t scale = out->scales[row * (out->cols / kBlockSize) + col / kBlockSize];
  const float encode = nvfp4::BlockEncode(nvfp4::E4m3ToF32(scale), out->decode);
  const bool stochastic = request.format.rounding == Rounding::kStochastic;
  PhiloxResult random = {};
  if (stochastic) {
    const StochasticKey& key = request.key;
    const int64_t block =
        (key.first_row + row) * (key.total_cols / kBlockSize) + (key.first_col + col) / kBlockSize;
    random = nvfp4::BlockRandom(key.seed, key.tensor_id, key.step, block);
  }
  for (int j = 0; j < kBlockSize; ++j) {
    const float y = x[row * out->cols + col + j] * encode;
    out->codes[row * out->cols + col + j] =
        stochastic ? nvfp4::RoundStochastic(y, nvfp4::RandomByte(random, j))
                   : nvfp4::RoundNearest(y);
  }
}

}  // namespace

float QuantizedMatrix::ValueAt(int64_t row, int64_t col) const {
  const uint8_t scale = scales[row * (cols / kBlockSize) + col / kBlockSize];
  return nvfp4::E2m1ToF32(codes[row * cols + col]) * nvfp4::E4m3ToF32(scale);
}

std::vector<float> QuantizerInput(const OperandRequest& request) {
  const Matrix& source = request.source;
  const int64_t rows = request.transpose ? source.cols : source.rows;
  const int64_t cols = request.transpose ? source.rows : source.cols;
  std::vector<float> x(rows * cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      x[r * cols + c] = request.transpose ? Get(source, c, r) : Get(source, r, c);
    }
  }
  if (request.format.hadamard_size != 0) {
    NIBBLE_CHECK(request.format.hadamard_size == nvfp4::kHadamardSize);
    NIBBLE_CHECK(cols % nvfp4::kHadamardSize == 0);
    for (int64_t i = 0; i < rows * cols; i += nvfp4::kHadamardSize) nvfp4::Hadamard16(&x[i]);
  }
  return x;
}

QuantizedMatrix Quantize(const OperandRequest& request) {
  const std::vector<float> x = QuantizerInput(request);
  QuantizedMatrix out;
  out.rows = request.transpose ? request.source.cols : request.source.rows;
  out.cols = request.transpose ? request.source.rows : request.source.cols;
  const int64_t tile_rows = request.format.block_rows;
  NIBBLE_CHECK(request.format.format == Format::kNvfp4);
  NIBBLE_CHECK(tile_rows == 1 || tile_rows == kBlockSize);
  NIBBLE_CHECK(out.cols % kBlockSize == 0 && out.rows % tile_rows == 0);

  out.amax = AbsMax(x, out.cols, 0, 0, out.rows, out.cols);
  const nvfp4::TensorScale tensor = nvfp4::TensorScaleOf(out.amax);
  out.decode = tensor.decode;
  out.codes.resize(out.rows * out.cols);
  out.scales.resize(out.rows * out.cols / kBlockSize);
  for (int64_t row = 0; row < out.rows; row += tile_rows) {
    for (int64_t col = 0; col < out.cols; col += kBlockSize) {
      const float amax = AbsMax(x, out.cols, row, col, tile_rows, kBlockSize);
      const uint8_t scale = nvfp4::BlockScaleOf(amax, tensor.multiplier);
      for (int64_t r = row; r < row + tile_rows; ++r) {
        out.scales[r * (out.cols / kBlockSize) + col / kBlockSize] = scale;
        QuantizeBlock(request, x.data(), r, col, &out);
      }
    }
  }
  return out;
}

}  // namespace nibble::kernels::reference
