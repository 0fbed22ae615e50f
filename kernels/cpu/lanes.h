// Loops over rows of FP32 or BF16 values, sixteen lanes at a time. The same rules as for simd.h.
#ifndef KERNELS_CPU_LANES_H_
#define KERNELS_CPU_LANES_H_

#include <cstdint>

#include "kernels/cpu/simd.h"
#include "kernels/op_args.h"

#define NIBBLE_LAMBDA __attribute__((always_inline))

namespace nibble::kernels::cpu {
namespace NIBBLE_ISA {

constexpr int64_t kLanes = 16;

// Elements [index, index + count) of an array of BF16 or FP32; the other lanes are zero.
template <bool kBf16>
NIBBLE_SIMD F32x16 LoadLanes(const void* data, int64_t index, int64_t count) {
  if constexpr (kBf16) {
    const uint16_t* from = static_cast<const uint16_t*>(data) + index;
    if (count == kLanes) return LoadBf16(from);
    uint16_t lanes[16] = {};
    __builtin_memcpy(lanes, from, count * 2);
    return LoadBf16(lanes);
  } else {
    const float* from = static_cast<const float*>(data) + index;
    return count == kLanes ? Load(from) : LoadPartial(from, count);
  }
}

// Rounds to the array's type; writes `count` elements.
template <bool kBf16>
NIBBLE_SIMD void StoreLanes(void* data, int64_t index, F32x16 value, int64_t count) {
  if constexpr (kBf16) {
    uint16_t* to = static_cast<uint16_t*>(data) + index;
    if (count == kLanes) {
      StoreBf16(to, value);
    } else {
      uint16_t lanes[16];
      StoreBf16(lanes, value);
      __builtin_memcpy(to, lanes, count * 2);
    }
  } else {
    float* to = static_cast<float*>(data) + index;
    if (count == kLanes) {
      Store(to, value);
    } else {
      StorePartial(to, value, count);
    }
  }
}

// body(index, count) for the pieces of [begin, end): count is the constant 16, then what is left.
template <class Body>
NIBBLE_SIMD void ForLanes(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, kLanes);
  if (i < end) body(i, end - i);
}

// Tiles of up to `tile_size` that cover [0, size).
NIBBLE_SIMD int64_t TileCount(int64_t size, int64_t tile_size) {
  return (size + tile_size - 1) / tile_size;
}
NIBBLE_SIMD int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
NIBBLE_SIMD int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows that make a tile worth handing to a thread: about 16,000 elements.
NIBBLE_SIMD int64_t RowsPerTile(int64_t cols) { return Larger(1, 16384 / Larger(cols, 1)); }

// to[r, c] = from[r * stride + offset + c], c < cols: packed FP32 rows of a part of a matrix.
template <bool kBf16>
NIBBLE_SIMD void WidenRowsAs(const void* from, int64_t stride, int64_t rows, int64_t cols,
                             float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    ForLanes(0, cols, [&](int64_t c, int64_t count) NIBBLE_LAMBDA {
      StoreLanes<false>(to, r * cols + c, LoadLanes<kBf16>(from, r * stride + c, count), count);
    });
  }
}

// The part of a matrix that starts at (row, col), `rows` by `cols`.
struct MatrixPart {
  const void* data;
  DType dtype;
  int64_t stride;
  int64_t row, col;
  int64_t rows, cols;
};

NIBBLE_SIMD void WidenRows(const MatrixPart& part, float* to) {
  const int64_t offset = part.row * part.stride + part.col;
  if (part.dtype == DType::kBF16) {
    WidenRowsAs<true>(static_cast<const uint16_t*>(part.data) + offset, part.stride, part.rows,
                      part.cols, to);
  } else {
    WidenRowsAs<false>(static_cast<const float*>(part.data) + offset, part.stride, part.rows,
                       part.cols, to);
  }
}

}  // namespace NIBBLE_ISA
}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_LANES_H_
