#include "kernels/reference/quantize.h"

#include <cmath>

#include "base/check.h"
#include "kernels/hadamard_signs.h"
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

// The sum that a sixteen-lane register folds to: lanes i and i + 8, then i + 4, i + 2, i + 1.
float FoldSixteen(float* lanes) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] + lanes[i + half];
  }
  return lanes[0];
}

// What rounding with this scale leaves between a tile (or block) and its scaled source, s_enc x.
float BlockError(const std::vector<float>& x, int64_t cols, int64_t row, int64_t col,
                 int64_t tile_rows, float scale, const nvfp4::TensorScale& tensor,
                 BlockTarget target) {
  const float encode = nvfp4::BlockEncode(scale, tensor.decode);
  float lanes[kBlockSize] = {};
  for (int64_t r = row; r < row + tile_rows; ++r) {
    for (int j = 0; j < kBlockSize; ++j) {
      const float value = x[r * cols + col + j];
      const float rounded = nvfp4::E2m1ToF32(nvfp4::RoundNearest(value * encode));
      const float error = rounded * scale - value * tensor.encode;
      lanes[j] = lanes[j] + (target == BlockTarget::kFourOrSixByAbsoluteError ? std::fabs(error)
                                                                              : error * error);
    }
  }
  return FoldSixteen(lanes);
}

// The E4M3 scale of the tile (or block) at (row, col).
uint8_t ChooseScale(const std::vector<float>& x, int64_t cols, int64_t row, int64_t col,
                    int64_t tile_rows, const nvfp4::TensorScale& tensor, BlockTarget target) {
  const float amax = AbsMax(x, cols, row, col, tile_rows, kBlockSize);
  const uint8_t six = nvfp4::BlockScaleOf(amax, tensor.multiplier);
  if (target == BlockTarget::kSix) return six;
  const uint8_t four = nvfp4::BlockScaleOf(amax, tensor.multiplier_to_four);
  const auto error = [&](uint8_t scale) {
    return BlockError(x, cols, row, col, tile_rows, nvfp4::E4m3ToF32(scale), tensor, target);
  };
  return error(four) < error(six) ? four : six;
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
    const int size = request.format.hadamard_size;
    NIBBLE_CHECK(cols % size == 0);
    const nvfp4::SignBits signs = SignsOf(request.format, request.key.step);
    for (int64_t i = 0; i < rows * cols; i += size) nvfp4::Hadamard(&x[i], size, signs);
  }
  return x;
}

QuantizedMatrix Quantize(const OperandRequest& request, const nvfp4::TensorScale* given) {
  const std::vector<float> x = QuantizerInput(request);
  QuantizedMatrix out;
  out.rows = request.transpose ? request.source.cols : request.source.rows;
  out.cols = request.transpose ? request.source.rows : request.source.cols;
  const int64_t tile_rows = request.format.block_rows;
  NIBBLE_CHECK(request.format.format == Format::kNvfp4);
  NIBBLE_CHECK(tile_rows == 1 || tile_rows == kBlockSize);
  NIBBLE_CHECK(out.cols % kBlockSize == 0 && out.rows % tile_rows == 0);

  out.amax = AbsMax(x, out.cols, 0, 0, out.rows, out.cols);
  const BlockTarget target = request.format.block_target;
  const nvfp4::TensorScale tensor =
      given != nullptr ? *given
                       : nvfp4::TensorScaleOf(out.amax, target == BlockTarget::kSix
                                                            ? nvfp4::kTensorRange
                                                            : nvfp4::kFourOverSixTensorRange);
  out.decode = tensor.decode;
  out.codes.resize(out.rows * out.cols);
  out.scales.resize(out.rows * out.cols / kBlockSize);
  for (int64_t row = 0; row < out.rows; row += tile_rows) {
    for (int64_t col = 0; col < out.cols; col += kBlockSize) {
      const uint8_t scale = ChooseScale(x, out.cols, row, col, tile_rows, tensor, target);
      for (int64_t r = row; r < row + tile_rows; ++r) {
        out.scales[r * (out.cols / kBlockSize) + col / kBlockSize] = scale;
        QuantizeBlock(request, x.data(), r, col, &out);
      }
    }
  }
  return out;
}

}  // namespace nibble::kernels::reference
