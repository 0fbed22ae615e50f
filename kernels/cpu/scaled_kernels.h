// Quantise and dequantise FP8 and the MX formats, compiled once for each instruction set. Source
// layout in, source layout out, like quantize_kernels.h; blocks at the edges may be partial.
//
// Bytes an element: the source's 2 or 4 read twice (the second time from the cache: a block is at
// most 64 KiB), 4 or 2 written.
#ifndef KERNELS_CPU_SCALED_KERNELS_H_
#define KERNELS_CPU_SCALED_KERNELS_H_

#include <cstdint>

#include "kernels/cpu/quantize_kernels.h"
#include "kernels/nvfp4/hadamard.h"
#include "kernels/op_args.h"

namespace nibble::kernels::cpu {

enum class ElementType : uint8_t { kE2m1, kE4m3, kE5m2 };
enum class ScaleRule : uint8_t {
  kTensor,      // ScaledJob::encode for all; no decoding
  kE8m0,        // nvfp4::E8m0ScaleOf
  kPowerOfTwo,  // nvfp4::PowerOfTwoScaleOf
};

struct ScaledJob {
  const void* source = nullptr;
  DType source_type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  // kRow, kColumn, or kTile for both orientations of a tile; kRow with kTensor.
  BlockShape shape = BlockShape::kRow;
  int64_t block = 0;  // elements of a row or column, edge of a tile
  ElementType element = ElementType::kE4m3;
  ScaleRule rule = ScaleRule::kTensor;
  float encode = 1;     // kTensor
  void* out = nullptr;  // dequantised; may be `source` where the types agree
  DType out_type = DType::kF32;
  bool stochastic = false;  // kE2m1 and multiples of 16 along the blocks
  StochasticKey key;        // of the operand
};

// Rows of a band of work.
static inline __attribute__((always_inline, unused)) int64_t BandRows(const ScaledJob& job) {
  return job.shape == BlockShape::kRow ? 16 : job.block;
}

// The transform of any size and signs. Values keep NaNs.
struct AnyHadamardJob {
  HadamardJob matrix;  // rows are a multiple of 16, and of `size` where along_columns
  int size = 16;
  nvfp4::SignBits signs = {};
};
static inline __attribute__((always_inline, unused)) int64_t BandRows(const AnyHadamardJob& job) {
  return job.matrix.along_columns && job.size > 16 ? job.size : 16;
}

struct ScaledKernels {
  void (*quantize)(const ScaledJob& job, BandRange bands);
  // Returns the largest bits of a magnitude among the rounded results.
  uint32_t (*hadamard)(const AnyHadamardJob& job, BandRange bands);
};

#ifdef NIBBLE_ISA
namespace NIBBLE_ISA {
extern const ScaledKernels kScaledKernels;
uint32_t AnyHadamard(const AnyHadamardJob& job, BandRange bands);
}  // namespace NIBBLE_ISA
#endif

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_SCALED_KERNELS_H_
