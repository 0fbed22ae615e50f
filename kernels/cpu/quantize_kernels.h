// The NVFP4 quantiser's inner loops, compiled once for each instruction set. They keep the source's
// layout: [rows, cols] in, [rows, cols] out, whichever dimension the blocks run along.
//
// Bytes an element: the source's 2 or 4 read, and 4 (FP32), 2 (BF16) or 1 (codes) written; the
// maximum is a pass of its own, since every scale depends on it.
#ifndef KERNELS_CPU_QUANTIZE_KERNELS_H_
#define KERNELS_CPU_QUANTIZE_KERNELS_H_

#include <cstdint>

#include "kernels/nvfp4/scales.h"
#include "kernels/op_args.h"

namespace nibble::kernels::cpu {

// What one scale covers, in the source's layout.
enum class BlockShape : uint8_t {
  kRow,             // 1x16: along a row
  kColumn,          // 16x1: along a column, the transposed operand's 1x16
  kTile,            // 16x16, in the source's own orientation
  kTileTransposed,  // 16x16 of the transposed operand: the same scales and nearest values; random
                    // bytes and scales are laid out as with kColumn
};

enum class QuantizeOutput : uint8_t {
  kF32,    // dequantised, without the tensor scale
  kBF16,   // the same; exact
  kCodes,  // E2M1, one a byte, and the blocks' E4M3 scales
};

struct QuantizeJob {
  const void* source = nullptr;
  DType source_type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  BlockShape shape = BlockShape::kRow;
  QuantizeOutput output = QuantizeOutput::kF32;
  void* out = nullptr;  // may be `source` where the types agree
  // kCodes: kRow [rows, cols / 16]; kColumn [cols, rows / 16]; kTile [rows / 16, cols / 16];
  // kTileTransposed like kColumn.
  uint8_t* scales = nullptr;
  nvfp4::TensorScale tensor = {};
  BlockTarget target = BlockTarget::kSix;  // others: kRow and kTile to nearest
  // The Hadamard transform of the columns' groups of 16 first, not stored anywhere: doing it twice
  // costs less than the memory it would wait in. kColumn and kTileTransposed.
  bool hadamard = false;
  bool stochastic = false;
  StochasticKey key;  // of the operand: transposed, its rows are the source's columns
};

struct HadamardJob {
  const void* source = nullptr;
  DType source_type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  bool along_columns = false;  // groups of 16 rows of a column; else of 16 columns of a row
  void* out = nullptr;         // values rounded to BF16; null: only the maximum is wanted
  DType out_type = DType::kF32;
};

// Work is cut into bands of 16 rows (the last may have fewer with kRow). Bands [first, last).
struct BandRange {
  int64_t first = 0;
  int64_t last = 0;
};

struct QuantizeKernels {
  // The largest bits of a magnitude: as an integer, so that a NaN counts above infinity.
  uint32_t (*max_magnitude_bits)(const void* source, DType type, int64_t size);
  // Returns the same of the rounded results. Whole bands only.
  uint32_t (*hadamard)(const HadamardJob& job, BandRange bands);
  void (*quantize)(const QuantizeJob& job, BandRange bands);
};

#ifdef NIBBLE_ISA
namespace NIBBLE_ISA {
extern const QuantizeKernels kQuantizeKernels;
}
#endif

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_QUANTIZE_KERNELS_H_
