// Where cuBLASLt wants a block scale of a [rows, cols / 16] matrix of scales: tiles of 128 x 4
// (512 bytes), in each of which rows r, r + 32, r + 64 and r + 96 are neighbours. docs/numerics.md,
// section 6; cuBLAS documentation, "1D block scaling factors layout".
#ifndef KERNELS_NVFP4_SWIZZLE_H_
#define KERNELS_NVFP4_SWIZZLE_H_

#include <cstdint>

#include "kernels/nvfp4/hd.h"

namespace nibble::nvfp4 {

NIBBLE_HD int64_t SwizzlePaddedRows(int64_t rows) { return (rows + 127) / 128 * 128; }
NIBBLE_HD int64_t SwizzlePaddedCols(int64_t scale_cols) { return (scale_cols + 3) / 4 * 4; }

// Of the padded matrix; padding holds zeros.
NIBBLE_HD int64_t SwizzledBytes(int64_t rows, int64_t scale_cols) {
  return SwizzlePaddedRows(rows) * SwizzlePaddedCols(scale_cols);
}

NIBBLE_HD int64_t SwizzledOffset(int64_t row, int64_t scale_col, int64_t scale_cols) {
  const int64_t tile = (row / 128) * (SwizzlePaddedCols(scale_cols) / 4) + scale_col / 4;
  return tile * 512 + (row % 32) * 16 + ((row % 128) / 32) * 4 + scale_col % 4;
}

}  // namespace nibble::nvfp4

#endif  // KERNELS_NVFP4_SWIZZLE_H_
