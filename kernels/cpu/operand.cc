#include "kernels/cpu/operand.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/gemm.h"
#include "kernels/nvfp4/bits.h"
#include "kernels/nvfp4/hadamard.h"
#include "kernels/nvfp4/scales.h"

namespace nibble::kernels::cpu {
namespace {

// The tensor scale comes first in an operand's storage, the elements behind it.
constexpr int64_t kHeaderBytes = 256;
// Elements of one tile of elementwise work: a fraction of a second-level cache, and long enough
// (about 10 us) that claiming it costs nothing.
constexpr int64_t kTileElements = 32768;
constexpr int64_t kBandRows = 16;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

QuantizeJob JobOf(const OperandRequest& request, float amax, float* decode) {
  const BlockTarget target = request.format.block_target;
  const nvfp4::TensorScale tensor = nvfp4::TensorScaleOf(
      amax, target == BlockTarget::kSix ? nvfp4::kTensorRange : nvfp4::kFourOverSixTensorRange);
  *decode = tensor.decode;
  QuantizeJob job;
  job.source = request.source.data;
  job.source_type = request.source.dtype;
  job.rows = request.source.rows;
  job.cols = request.source.cols;
  const bool tiles = request.format.block_rows == 16;
  job.shape = request.transpose ? (tiles ? BlockShape::kTileTransposed : BlockShape::kColumn)
                                : (tiles ? BlockShape::kTile : BlockShape::kRow);
  job.tensor = tensor;
  job.target = target;
  job.stochastic = request.format.rounding == Rounding::kStochastic;
  job.key = request.key;
  return job;
}

bool IsDefaultTransform(const OperandFormat& format) {
  return format.hadamard_size == nvfp4::kHadamardSize &&
         format.hadamard_signs == HadamardSigns::kFixed;
}

void CheckShape(const OperandRequest& request) {
  const OperandFormat& format = request.format;
  NIBBLE_CHECK(format.block_rows == 1 || format.block_rows == 16);
  NIBBLE_CHECK(request.source.cols % 16 == 0);
  // Four over six is for forward operands, which are never transposed.
  NIBBLE_CHECK(format.block_target == BlockTarget::kSix ||
               (!request.transpose && format.rounding == Rounding::kNearest));
  if (request.transpose || format.block_rows == 16 || format.hadamard_size != 0) {
    NIBBLE_CHECK(request.source.rows % 16 == 0);
  }
}

// Tiles of a product: 128x256 reaches 95 % of oneDNN's rate for large matrices (packing a side is
// paid once a tile); smaller where there would be too few for the threads. A function of the shape
// alone, so that bits do not depend on the number of threads.
struct TileShape {
  int64_t rows = 128;
  int64_t cols = 256;
  int64_t Count(int64_t m, int64_t n) const { return CeilDiv(m, rows) * CeilDiv(n, cols); }
};

TileShape TileShapeOf(int64_t m, int64_t n) {
  constexpr int64_t kEnoughTiles = 16;
  constexpr int64_t kSmallest = 64;
  TileShape tile;
  while (tile.Count(m, n) < kEnoughTiles && tile.cols > kSmallest) {
    tile.cols = tile.cols > tile.rows ? tile.cols / 2 : tile.cols;
    if (tile.Count(m, n) >= kEnoughTiles) break;
    if (tile.rows >= tile.cols) tile.rows = std::max(kSmallest, tile.rows / 2);
  }
  return tile;
}

// Rows [row, row + ...) of an operand [rows, cols] as A, or its transpose as B.
TileSide SideOf(const Operand& operand, int64_t row) {
  TileSide side;
  side.type = operand.storage;
  side.stride = operand.transposed ? operand.rows : operand.cols;
  const int64_t first = operand.transposed ? row : row * operand.cols;
  side.data = static_cast<const char*>(operand.data) + first * SizeOf(operand.storage);
  side.transposed = operand.transposed;
  return side;
}

}  // namespace

Operands::Operands(OpContext& context, Isa isa)
    : context_(context),
      quantize_(QuantizeKernelsFor(isa)),
      scaled_(ScaledKernelsFor(isa)),
      product_(ProductKernelsFor(isa)),
      storage_(context.native_bf16 ? DType::kBF16 : DType::kF32) {}

bool Operands::IsView(const OperandFormat& format, DType source) const {
  if (IsQuantised(format.format)) return false;
  if (source == DType::kF32) return format.format == Format::kF32;
  // Widening once beats widening in every tile of every product.
  return context_.native_bf16;
}

int64_t Operands::Bytes(const OperandFormat& format, DType source, int64_t rows,
                        int64_t cols) const {
  return IsView(format, source) ? 0 : kHeaderBytes + rows * cols * SizeOf(storage_);
}

Operand Operands::Prepare(const OperandRequest& request, void* storage) {
  const Matrix& source = request.source;
  Operand operand;
  operand.format = request.format;
  operand.rows = request.transpose ? source.cols : source.rows;
  operand.cols = request.transpose ? source.rows : source.cols;
  operand.transposed = request.transpose;
  if (IsView(request.format, source.dtype)) {
    operand.data = source.data;
    operand.storage = source.dtype;
    return operand;
  }
  NIBBLE_CHECK(storage != nullptr);
  float* tensor_scale = static_cast<float*>(storage);
  void* values = static_cast<char*>(storage) + kHeaderBytes;
  operand.data = values;
  operand.storage = storage_;
  if (!IsQuantised(request.format.format)) {
    Convert(source, values);
    return operand;
  }
  if (request.format.format == Format::kNvfp4) {
    PrepareNvfp4(request, tensor_scale, values);
  } else {
    PrepareScaled(request, tensor_scale, values);
  }
  operand.tensor_scale = tensor_scale;
  return operand;
}

// BF16 widened to FP32, or FP32 rounded to BF16 (kept in FP32 where that is the storage).
void Operands::Convert(const Matrix& source, void* values) {
  const int64_t size = source.size();
  ParallelFor(context_.pool, CeilDiv(size, kTileElements), [&](int64_t tile, int) {
    const int64_t first = tile * kTileElements;
    const int64_t count = std::min(kTileElements, size - first);
    if (source.dtype == DType::kBF16) {
      product_.widen(static_cast<const uint16_t*>(source.data) + first,
                     static_cast<float*>(values) + first, count);
    } else if (storage_ == DType::kBF16) {
      product_.narrow(static_cast<const float*>(source.data) + first,
                      static_cast<uint16_t*>(values) + first, count);
    } else {
      product_.round(static_cast<const float*>(source.data) + first,
                     static_cast<float*>(values) + first, count);
    }
  });
}

uint32_t Operands::MaxMagnitude(const Matrix& source) {
  const int64_t size = source.size();
  const int64_t tiles = CeilDiv(size, kTileElements);
  uint32_t* partial = static_cast<uint32_t*>(context_.scratch.Shared(tiles * sizeof(uint32_t)));
  ParallelFor(context_.pool, tiles, [&](int64_t tile, int) {
    const int64_t first = tile * kTileElements;
    partial[tile] = quantize_.max_magnitude_bits(
        static_cast<const char*>(source.data) + first * SizeOf(source.dtype), source.dtype,
        std::min(kTileElements, size - first));
  });
  return tiles == 0 ? 0 : *std::max_element(partial, partial + tiles);
}

uint32_t Operands::TransformBands(const OperandRequest& request, void* out, DType out_type) {
  const Matrix& source = request.source;
  const HadamardJob job = {source.data,       source.dtype, source.rows, source.cols,
                           request.transpose, out,          out_type};
  const int64_t bands = source.rows / kBandRows;
  const int64_t step = std::max<int64_t>(1, kTileElements / (kBandRows * source.cols));
  const int64_t tiles = CeilDiv(bands, step);
  uint32_t* partial = static_cast<uint32_t*>(context_.scratch.Shared(tiles * sizeof(uint32_t)));
  ParallelFor(context_.pool, tiles, [&](int64_t tile, int) {
    partial[tile] = quantize_.hadamard(job, {tile * step, std::min(bands, (tile + 1) * step)});
  });
  return tiles == 0 ? 0 : *std::max_element(partial, partial + tiles);
}

void Operands::RunQuantizer(const QuantizeJob& job) {
  const int64_t bands = CeilDiv(job.rows, kBandRows);
  const int64_t step = std::max<int64_t>(1, kTileElements / (kBandRows * job.cols));
  ParallelFor(context_.pool, CeilDiv(bands, step), [&](int64_t tile, int) {
    quantize_.quantize(job, {tile * step, std::min(bands, (tile + 1) * step)});
  });
}

// The job of quantising `request` without its output. A transformed source waits in `transformed`
// (elements of `type`); only the default Hadamard transform along columns is part of the job.
QuantizeJob Operands::MeasureAndTransform(const OperandRequest& request, void* transformed,
                                          DType type, float* amax, float* decode) {
  CheckShape(request);
  const bool transform = request.format.hadamard_size != 0;
  const bool fused = transform && request.transpose && IsDefaultTransform(request.format);
  uint32_t amax_bits = 0;
  if (!transform) {
    amax_bits = MaxMagnitude(request.source);
  } else if (IsDefaultTransform(request.format)) {
    amax_bits = TransformBands(request, fused ? nullptr : transformed, type);
  } else {
    amax_bits = TransformAny(request, transformed, type);
  }
  *amax = nvfp4::FloatOf(amax_bits);
  QuantizeJob job = JobOf(request, *amax, decode);
  if (transform && !fused) {
    job.source = transformed;
    job.source_type = type;
  }
  job.hadamard = fused;
  return job;
}

void Operands::PrepareNvfp4(const OperandRequest& request, float* tensor_scale, void* values) {
  float amax = 0;
  // Transformed values are BF16: they can wait in the operand's own storage.
  QuantizeJob job = MeasureAndTransform(request, values, storage_, &amax, tensor_scale);
  job.output = storage_ == DType::kBF16 ? QuantizeOutput::kBF16 : QuantizeOutput::kF32;
  job.out = values;
  RunQuantizer(job);
}

QuantizedSource Operands::Quantize(const OperandRequest& request) {
  QuantizedSource result;
  std::vector<float> transformed(request.format.hadamard_size != 0 ? request.source.size() : 0);
  QuantizeJob job =
      MeasureAndTransform(request, transformed.data(), DType::kF32, &result.amax, &result.decode);
  const bool one_scale_a_tile = job.shape == BlockShape::kTile;
  result.codes.resize(request.source.size());
  result.scales.resize(request.source.size() / (one_scale_a_tile ? 256 : 16));
  job.output = QuantizeOutput::kCodes;
  job.out = result.codes.data();
  job.scales = result.scales.data();
  RunQuantizer(job);
  return result;
}

float Operands::Hadamard(const OperandRequest& request, float* out) {
  CheckShape(request);
  return nvfp4::FloatOf(IsDefaultTransform(request.format)
                            ? TransformBands(request, out, DType::kF32)
                            : TransformAny(request, out, DType::kF32));
}

Operand Transposed(const Operand& operand) {
  NIBBLE_CHECK(SurvivesTransposition(operand.format));
  Operand result = operand;
  result.rows = operand.cols;
  result.cols = operand.rows;
  result.transposed = !operand.transposed;
  return result;
}

void Operands::Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate) {
  NIBBLE_CHECK(a.cols == b.cols && c.rows == a.rows && c.cols == b.rows);
  NIBBLE_CHECK(!accumulate || c.dtype == DType::kF32);
  const ProductScale scale = ProductScaleOf(a, b);
  const TileShape tile = TileShapeOf(c.rows, c.cols);
  const int64_t tiles_across = CeilDiv(c.cols, tile.cols);
  const bool direct = c.dtype == DType::kF32 && scale.is_one();
  ParallelFor(context_.pool, tile.Count(c.rows, c.cols), [&](int64_t index, int thread) {
    const int64_t row = index / tiles_across * tile.rows;
    const int64_t col = index % tiles_across * tile.cols;
    TileProduct product;
    product.m = std::min(tile.rows, c.rows - row);
    product.n = std::min(tile.cols, c.cols - col);
    product.k = a.cols;
    product.a = SideOf(a, row);
    product.b = SideOf(b, col);
    product.b.transposed = !product.b.transposed;
    char* to = static_cast<char*>(c.data) + (row * c.cols + col) * SizeOf(c.dtype);
    if (direct) {
      product.c = reinterpret_cast<float*>(to);
      product.c_stride = c.cols;
      product.accumulate = accumulate;
      MultiplyTile(product);
      return;
    }
    product.c = static_cast<float*>(
        context_.scratch.ForThread(thread, tile.rows * tile.cols * sizeof(float)));
    product.c_stride = tile.cols;
    MultiplyTile(product);
    product_.store_tile({product.c, product.c_stride, product.m, product.n, scale, to, c.dtype,
                         c.cols, accumulate});
  });
}

}  // namespace nibble::kernels::cpu
