// The quantisers of FP8 and of the MX formats (docs/numerics.md, section 1), and the way back from
// codes to BF16.
//
// Block formats: a first launch writes each block's two scales (8 bytes a block, scratch), a second
// one the elements: 2 + 2 bytes read and 2 (codes: 1) written an element of BF16. FP8 tensor-wise:
// the same after MeasureAmax. One thread a group of 16 elements along the operand's columns, which
// never crosses a block; blocks at the right and lower edge may be partial.
#include "kernels/cuda/block_of_16.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/nvfp4/block_scales.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/e4m3.h"
#include "kernels/nvfp4/e5m2.h"
#include "kernels/nvfp4/rounding.h"
#include "kernels/nvfp4/swizzle.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

struct Blocks {
  int64_t height, width;  // of a block, elements
  int64_t down, across;
};

NIBBLE_DEVICE nvfp4::BlockScale ScaleOf(Format format, float amax) {
  switch (format) {
    case Format::kMxfp4:
      return nvfp4::E8m0ScaleOf(amax, 1.0f / 6.0f);
    case Format::kMxfp8:
      return nvfp4::E8m0ScaleOf(amax, 1.0f / 448.0f);
    case Format::kFp8Block:
      return nvfp4::PowerOfTwoScaleOf(amax, 448.0f);
    case Format::kFp8E5m2:
      return nvfp4::TensorWiseScaleOf(amax, 57344.0f);
    default:
      return nvfp4::TensorWiseScaleOf(amax, 448.0f);
  }
}

// A thread a block of one row of a transposed source: neighbours take neighbouring source columns.
template <class T>
NIBBLE_GLOBAL void ColumnScalesKernel(QuantizeJob job, Blocks blocks, nvfp4::BlockScale* scales) {
  const int64_t index = GlobalThread();
  if (index >= job.rows * blocks.across) return;
  const int64_t row = index % job.rows, block = index / job.rows;
  const T* source = static_cast<const T*>(job.source);
  uint32_t bits = 0;
  for (int64_t c = block * blocks.width; c < (block + 1) * blocks.width && c < job.cols; ++c) {
    const uint32_t b = nvfp4::BitsOf(ToFloat(source[c * job.rows + row])) & 0x7fffffffu;
    bits = b > bits ? b : bits;
  }
  scales[row * blocks.across + block] = ScaleOf(job.format.format, nvfp4::FloatOf(bits));
}

// A warp a block; lanes run along the source's rows.
template <class T>
NIBBLE_GLOBAL void BlockScalesKernel(QuantizeJob job, Blocks blocks, nvfp4::BlockScale* scales) {
  const int64_t block = GlobalThread() / kWarp;
  if (block >= blocks.down * blocks.across) return;  // whole warps
  const int64_t row = block / blocks.across * blocks.height;
  const int64_t col = block % blocks.across * blocks.width;
  const int64_t height = row + blocks.height < job.rows ? blocks.height : job.rows - row;
  const int64_t width = col + blocks.width < job.cols ? blocks.width : job.cols - col;
  // In the source: `lines` rows of `length` elements.
  const int64_t lines = job.transpose ? width : height, length = job.transpose ? height : width;
  const int64_t stride = job.transpose ? job.rows : job.cols;
  const T* first = static_cast<const T*>(job.source) +
                   (job.transpose ? col * job.rows + row : row * job.cols + col);
  uint32_t bits = 0;
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t i = LaneId(); i < length; i += kWarp) {
      const uint32_t b = nvfp4::BitsOf(ToFloat(first[line * stride + i])) & 0x7fffffffu;
      bits = b > bits ? b : bits;
    }
  }
  bits = MaxOverLanes(bits, kWarp);
  if (LaneId() == 0) scales[block] = ScaleOf(job.format.format, nvfp4::FloatOf(bits));
}

// The code of a scaled element.
NIBBLE_DEVICE uint8_t CodeOf(Format format, bool stochastic, uint8_t random_byte, float y) {
  if (format == Format::kFp8E5m2) return nvfp4::F32ToE5m2(y);
  if (format != Format::kMxfp4) return nvfp4::F32ToE4m3(y);
  return stochastic ? nvfp4::RoundStochastic(y, random_byte) : nvfp4::RoundNearest(y);
}

NIBBLE_DEVICE float ValueOf(Format format, uint8_t code) {
  if (format == Format::kFp8E5m2) return nvfp4::E5m2ToF32(code);
  return format == Format::kMxfp4 ? nvfp4::E2m1ToF32(code) : nvfp4::E4m3ToF32(code);
}

// `scales`: null for tensor-wise formats.
template <class T>
NIBBLE_GLOBAL void ElementsKernel(QuantizeJob job, Blocks blocks, const nvfp4::BlockScale* scales,
                                  Walk walk) {
  const int64_t across = (job.cols + kGroup - 1) / kGroup;
  const int64_t index = GlobalThread();
  if (index >= job.rows * across) return;
  const GroupPlace at = PlaceOf(walk, index, job.rows, across);
  const Format format = job.format.format;
  float x[kGroup];
  LoadGroup(static_cast<const T*>(job.source), job.transpose, at, job.rows, job.cols, x);
  nvfp4::BlockScale scale;
  if (scales == nullptr) {
    scale = ScaleOf(format, nvfp4::FloatOf(*job.amax_bits));
    if (index == 0) *job.decode = scale.decode;
    scale.decode = 1.0f;
  } else {
    if (index == 0) *job.decode = 1.0f;
    scale = scales[at.row / blocks.height * blocks.across + at.group * kGroup / blocks.width];
  }
  const bool stochastic = job.format.rounding == Rounding::kStochastic;
  PhiloxResult random = {};
  if (stochastic) {
    const StochasticKey& key = job.key;
    const uint64_t group = static_cast<uint64_t>(
        (key.first_row + at.row) * (key.total_cols / kGroup) + key.first_col / kGroup + at.group);
    random = nvfp4::BlockRandom(key.seed, key.tensor_id, key.step, group);
  }
  uint8_t* codes = static_cast<uint8_t*>(job.out) + at.row * job.cols + at.group * kGroup;
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    const uint8_t code =
        CodeOf(format, stochastic, nvfp4::RandomByte(random, j), x[j] * scale.encode);
    x[j] = ValueOf(format, code) * scale.decode;
    if (job.output == QuantizeOutput::kCodes && at.group * kGroup + j < job.cols) codes[j] = code;
  }
  if (job.output == QuantizeOutput::kBF16) {
    StoreGroup(static_cast<uint16_t*>(job.out), at, job.cols, x);
  } else if (job.output == QuantizeOutput::kF32) {
    StoreGroup(static_cast<float*>(job.out), at, job.cols, x);
  }
}

// REQUIRES: NVFP4: cols a multiple of 16.
NIBBLE_GLOBAL void DequantizeKernel(DequantizeJob job) {
  const int64_t across = (job.cols + kGroup - 1) / kGroup;
  const int64_t index = GlobalThread();
  if (index >= job.rows * across) return;
  const GroupPlace at = PlaceOf(Walk::kRows, index, job.rows, across);
  const int64_t first = at.row * job.cols + at.group * kGroup;
  const bool nvfp4 = job.format.format == Format::kNvfp4;
  const float scale =
      nvfp4 ? nvfp4::E4m3ToF32(job.scales[nvfp4::SwizzledOffset(at.row, at.group, across)]) : 1.0f;
  float x[kGroup];
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    x[j] = 0;
    if (at.group * kGroup + j >= job.cols) continue;
    x[j] = nvfp4 ? nvfp4::E2m1ToF32(nvfp4::UnpackE2m1(job.codes, first + j)) * scale
                 : ValueOf(job.format.format, job.codes[first + j]);
  }
  StoreGroup(job.out, at, job.cols, x);
}

Blocks BlocksOf(const QuantizeJob& job) {
  Blocks blocks;
  const int size = BlockSizeOf(job.format.format);
  blocks.height = size == 0 ? job.rows : job.format.block_rows;
  blocks.width = size == 0 ? job.cols : size;
  blocks.down = CeilDiv(job.rows, blocks.height);
  blocks.across = CeilDiv(job.cols, blocks.width);
  return blocks;
}

}  // namespace

int64_t ScaledScratchBytes(const QuantizeJob& job) {
  const Blocks blocks = BlocksOf(job);
  return blocks.down * blocks.across * static_cast<int64_t>(sizeof(nvfp4::BlockScale));
}

void QuantizeScaled(Stream stream, const QuantizeJob& job, void* scratch) {
  const Blocks blocks = BlocksOf(job);
  nvfp4::BlockScale* scales =
      BlockSizeOf(job.format.format) == 0 ? nullptr : static_cast<nvfp4::BlockScale*>(scratch);
  const int64_t groups = job.rows * CeilDiv(job.cols, kGroup);
  WithType(job.source_type, [&](auto type) {
    using T = decltype(type);
    if (scales != nullptr && job.transpose && blocks.height == 1) {
      Launch(dim3(CeilDiv(job.rows * blocks.across, kThreads)), kThreads, 0, stream,
             ColumnScalesKernel<T>, job, blocks, scales);
    } else if (scales != nullptr) {
      Launch(dim3(CeilDiv(blocks.down * blocks.across * kWarp, kThreads)), kThreads, 0, stream,
             BlockScalesKernel<T>, job, blocks, scales);
    }
    Launch(dim3(CeilDiv(groups, kThreads)), kThreads, 0, stream, ElementsKernel<T>, job, blocks,
           static_cast<const nvfp4::BlockScale*>(scales),
           job.transpose ? Walk::kColumns : Walk::kRows);
  });
}

void Dequantize(Stream stream, const DequantizeJob& job) {
  Launch(dim3(CeilDiv(job.rows * CeilDiv(job.cols, kGroup), kThreads)), kThreads, 0, stream,
         DequantizeKernel, job);
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
