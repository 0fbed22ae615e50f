// The NVFP4 quantiser: docs/numerics.md, sections 2 to 4, one thread a block of 16 elements
// (block_of_16.cuh), arithmetic of kernels/nvfp4.
//
// Two launches: the largest magnitude (2 bytes read an element of BF16), then the quantiser (2
// read; 2 written dequantised, or 0.5 of codes and 1/16 of scales). With a Hadamard transform both
// do it in registers: 6 bytes an element where a transformed copy would make 8. The maximum is
// taken over the bits as integers, so its order does not matter and an integer atomic may combine
// blocks.
#include "kernels/cuda/block_of_16.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/e4m3.h"
#include "kernels/nvfp4/rounding.h"
#include "kernels/nvfp4/scales.h"
#include "kernels/nvfp4/swizzle.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

// Enough to fill any device; a thread takes every so-many-th group.
constexpr int64_t kMostAmaxBlocks = 2048;

template <class T>
NIBBLE_GLOBAL void AmaxKernel(QuantizeJob job, Walk walk) {
  const int64_t across = (job.cols + kGroup - 1) / kGroup;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint32_t bits = 0;
  for (int64_t i = GlobalThread(); i < job.rows * across; i += step) {
    float x[kGroup];
    LoadGroup(static_cast<const T*>(job.source), job.transpose, PlaceOf(walk, i, job.rows, across),
              job.rows, job.cols, x);
    HadamardOfGroup(job.format.hadamard_size, job.signs, x);
    const uint32_t group_bits = AmaxBits(x);
    bits = group_bits > bits ? group_bits : bits;
  }
  bits = MaxOverLanes(bits, kWarp);
  if (LaneId() == 0 && bits != 0) atomicMax(job.amax_bits, bits);
}

// What rounding with this scale leaves of the block or tile: sums in the order of the 16-lane
// vectors of the CPU, column by column over the rows of a tile, then lanes i and i + 8, 4, 2, 1.
NIBBLE_DEVICE float BlockError(const float* x, float scale, const nvfp4::TensorScale& tensor,
                               BlockTarget target, bool tiles) {
  const float encode = nvfp4::BlockEncode(scale, tensor.decode);
  float lanes[kGroup];
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    const float rounded = nvfp4::E2m1ToF32(nvfp4::RoundNearest(x[j] * encode));
    const float error = rounded * scale - x[j] * tensor.encode;
    const float mine =
        target == BlockTarget::kFourOrSixByAbsoluteError ? nvfp4::AbsOf(error) : error * error;
    lanes[j] = mine;
    if (!tiles) continue;
    lanes[j] = 0;
    for (int row = 0; row < 16; ++row) {
      lanes[j] += __shfl_sync(kAllLanes, mine, LaneId() / 16 * 16 + row);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) lanes[i] = lanes[i] + lanes[i + 8];
#pragma unroll
  for (int i = 0; i < 4; ++i) lanes[i] = lanes[i] + lanes[i + 4];
  return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

NIBBLE_DEVICE uint8_t ChooseScale(const float* x, float amax, const nvfp4::TensorScale& tensor,
                                  BlockTarget target, bool tiles) {
  const uint8_t six = nvfp4::BlockScaleOf(amax, tensor.multiplier);
  if (target == BlockTarget::kSix) return six;
  const uint8_t four = nvfp4::BlockScaleOf(amax, tensor.multiplier_to_four);
  const float error_of_four = BlockError(x, nvfp4::E4m3ToF32(four), tensor, target, tiles);
  const float error_of_six = BlockError(x, nvfp4::E4m3ToF32(six), tensor, target, tiles);
  return error_of_four < error_of_six ? four : six;
}

NIBBLE_DEVICE void StoreCodes(const QuantizeJob& job, const GroupPlace& at, int64_t across,
                              const uint8_t* codes, uint8_t scale) {
  uint32_t words[2] = {0, 0};
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    words[j / 8] |= static_cast<uint32_t>(codes[j] & 15u) << (4 * (j % 8));
  }
  uint32_t* to = static_cast<uint32_t*>(job.out) + (at.row * across + at.group) * 2;
  to[0] = words[0];
  to[1] = words[1];
  job.scales[job.swizzled ? nvfp4::SwizzledOffset(at.row, at.group, across)
                          : at.row * across + at.group] = scale;
}

template <class T>
NIBBLE_GLOBAL void QuantizeKernel(QuantizeJob job, Walk walk) {
  const int64_t across = job.cols / kGroup;
  const int64_t index = GlobalThread();
  const bool active = index < job.rows * across;
  const bool tiles = job.format.block_rows != 1;
  const BlockTarget target = job.format.block_target;
  // Lanes beyond the end take part in the exchanges of a tile.
  const GroupPlace at = PlaceOf(walk, active ? index : 0, job.rows, across);
  float x[kGroup];
  LoadGroup(static_cast<const T*>(job.source), job.transpose, at, job.rows, job.cols, x);
  HadamardOfGroup(job.format.hadamard_size, job.signs, x);
  const nvfp4::TensorScale tensor = nvfp4::TensorScaleOf(
      nvfp4::FloatOf(*job.amax_bits),
      target == BlockTarget::kSix ? nvfp4::kTensorRange : nvfp4::kFourOverSixTensorRange);
  if (index == 0) *job.decode = tensor.decode;
  uint32_t amax_bits = AmaxBits(x);
  if (tiles) amax_bits = MaxOverLanes(amax_bits, 16);
  const uint8_t scale = ChooseScale(x, nvfp4::FloatOf(amax_bits), tensor, target, tiles);
  if (!active) return;
  const float block_scale = nvfp4::E4m3ToF32(scale);
  const float encode = nvfp4::BlockEncode(block_scale, tensor.decode);
  uint8_t codes[kGroup];
  if (job.format.rounding == Rounding::kStochastic) {
    const StochasticKey& key = job.key;
    const uint64_t block = static_cast<uint64_t>(
        (key.first_row + at.row) * (key.total_cols / kGroup) + key.first_col / kGroup + at.group);
    const PhiloxResult random = nvfp4::BlockRandom(key.seed, key.tensor_id, key.step, block);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      codes[j] = nvfp4::RoundStochastic(x[j] * encode, nvfp4::RandomByte(random, j));
    }
  } else {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) codes[j] = nvfp4::RoundNearest(x[j] * encode);
  }
  if (job.output == QuantizeOutput::kCodes) {
    StoreCodes(job, at, across, codes, scale);
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) x[j] = nvfp4::E2m1ToF32(codes[j]) * block_scale;
  if (job.output == QuantizeOutput::kBF16) {
    StoreGroup(static_cast<uint16_t*>(job.out), at, job.cols, x);
  } else {
    StoreGroup(static_cast<float*>(job.out), at, job.cols, x);
  }
}

Walk WalkOf(const QuantizeJob& job) {
  if (job.transpose) return Walk::kColumns;
  return job.format.block_rows == 16 ? Walk::kTiles : Walk::kRows;
}

}  // namespace

void MeasureAmax(Stream stream, const QuantizeJob& request) {
  QuantizeJob job = request;
  if (job.transpose && job.format.hadamard_size == 0) {
    // The maximum does not care, and rows are read faster.
    job.transpose = false;
    job.rows = request.cols;
    job.cols = request.rows;
  }
  const int64_t groups = job.rows * CeilDiv(job.cols, kGroup);
  const int64_t blocks = CeilDiv(groups, kThreads);
  WithType(job.source_type, [&](auto type) {
    Launch(dim3(blocks < kMostAmaxBlocks ? blocks : kMostAmaxBlocks), kThreads, 0, stream,
           AmaxKernel<decltype(type)>, job, job.transpose ? Walk::kColumns : Walk::kRows);
  });
}

void QuantizeNvfp4(Stream stream, const QuantizeJob& job) {
  const int64_t groups = job.rows * (job.cols / kGroup);
  WithType(job.source_type, [&](auto type) {
    Launch(dim3(CeilDiv(groups, kThreads)), kThreads, 0, stream, QuantizeKernel<decltype(type)>,
           job, WalkOf(job));
  });
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
