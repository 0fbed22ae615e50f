// Operands in FP8 and the MX formats, and Hadamard transforms other than the default one.
#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/operand.h"
#include "kernels/hadamard_signs.h"
#include "kernels/nvfp4/bits.h"
#include "kernels/nvfp4/block_scales.h"
#include "kernels/nvfp4/e4m3.h"
#include "kernels/nvfp4/e5m2.h"

namespace nibble::kernels::cpu {
namespace {

// Elements of one tile of work, as in operand.cc.
constexpr int64_t kTileElements = 32768;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bands of `band_rows` rows that make a tile of work.
int64_t BandsPerTile(int64_t band_rows, int64_t cols) {
  return std::max<int64_t>(1, kTileElements / (band_rows * cols));
}

BlockShape ShapeOf(const OperandRequest& request) {
  if (BlockSizeOf(request.format.format) == 0) return BlockShape::kRow;
  if (request.format.block_rows != 1) return BlockShape::kTile;
  return request.transpose ? BlockShape::kColumn : BlockShape::kRow;
}

ElementType ElementOf(Format format) {
  if (format == Format::kMxfp4) return ElementType::kE2m1;
  return format == Format::kFp8E5m2 ? ElementType::kE5m2 : ElementType::kE4m3;
}

ScaleRule RuleOf(Format format) {
  if (format == Format::kFp8Block) return ScaleRule::kPowerOfTwo;
  return BlockSizeOf(format) == 0 ? ScaleRule::kTensor : ScaleRule::kE8m0;
}

}  // namespace

uint32_t Operands::TransformAny(const OperandRequest& request, void* out, DType out_type) {
  const Matrix& source = request.source;
  AnyHadamardJob job;
  job.matrix = {source.data,       source.dtype, source.rows, source.cols,
                request.transpose, out,          out_type};
  job.size = request.format.hadamard_size;
  job.signs = SignsOf(request.format, request.key.step);
  const int64_t band_rows = BandRows(job);
  NIBBLE_CHECK(source.rows % band_rows == 0);
  NIBBLE_CHECK(request.transpose || source.cols % std::max(job.size, 16) == 0);
  const int64_t bands = source.rows / band_rows;
  const int64_t step = BandsPerTile(band_rows, source.cols);
  const int64_t tiles = CeilDiv(bands, step);
  uint32_t* partial = static_cast<uint32_t*>(context_.scratch.Shared(tiles * sizeof(uint32_t)));
  ParallelFor(context_.pool, tiles, [&](int64_t tile, int) {
    partial[tile] = scaled_.hadamard(job, {tile * step, std::min(bands, (tile + 1) * step)});
  });
  return tiles == 0 ? 0 : *std::max_element(partial, partial + tiles);
}

void Operands::PrepareScaled(const OperandRequest& request, float* tensor_scale, void* values) {
  const Format format = request.format.format;
  ScaledJob job;
  job.source = request.source.data;
  job.source_type = request.source.dtype;
  job.rows = request.source.rows;
  job.cols = request.source.cols;
  job.shape = ShapeOf(request);
  job.block = BlockSizeOf(format);
  job.element = ElementOf(format);
  job.rule = RuleOf(format);
  job.out = values;
  job.out_type = storage_;
  job.stochastic = request.format.rounding == Rounding::kStochastic;
  job.key = request.key;
  NIBBLE_CHECK(!job.stochastic ||
               (HasE2m1Elements(format) && (request.transpose ? job.rows : job.cols) % 16 == 0));
  const bool transform = request.format.hadamard_size != 0;
  uint32_t amax = 0;
  if (transform) {
    // Transformed values are BF16: they can wait in the operand's own storage.
    amax = TransformAny(request, values, storage_);
    job.source = values;
    job.source_type = storage_;
  } else if (job.rule == ScaleRule::kTensor) {
    amax = MaxMagnitude(request.source);
  }
  *tensor_scale = 1;
  if (job.rule == ScaleRule::kTensor) {
    const nvfp4::BlockScale scale = nvfp4::TensorWiseScaleOf(
        nvfp4::FloatOf(amax), format == Format::kFp8E5m2 ? nvfp4::kE5m2Max : nvfp4::kE4m3Max);
    job.encode = scale.encode;
    *tensor_scale = scale.decode;
  }
  const int64_t band_rows = BandRows(job);
  const int64_t bands = CeilDiv(job.rows, band_rows);
  const int64_t step = BandsPerTile(band_rows, job.cols);
  ParallelFor(context_.pool, CeilDiv(bands, step), [&](int64_t tile, int) {
    scaled_.quantize(job, {tile * step, std::min(bands, (tile + 1) * step)});
  });
}

}  // namespace nibble::kernels::cpu
