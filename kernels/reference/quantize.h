// The quantisers of docs/numerics.md, sections 1 to 4, one element after the other.
#ifndef KERNELS_REFERENCE_QUANTIZE_H_
#define KERNELS_REFERENCE_QUANTIZE_H_

#include <cstdint>
#include <vector>

#include "kernels/nvfp4/block_scales.h"
#include "kernels/nvfp4/scales.h"
#include "kernels/op_args.h"

namespace nibble::kernels::reference {

struct QuantizedMatrix {
  int64_t rows = 0;
  int64_t cols = 0;             // the dot-product dimension
  float amax = 0;               // of what was quantised, after any Hadamard transform
  float decode = 1;             // s_dec
  std::vector<uint8_t> codes;   // [rows, cols], one a byte
  std::vector<uint8_t> scales;  // [rows, cols / 16], E4M3; equal in the 16 rows of a 16x16 tile

  // What a product multiplies: without s_dec.
  float ValueAt(int64_t row, int64_t col) const;
};

// What the quantiser reads: the source, transposed and Hadamard-transformed as asked. [rows, cols]
std::vector<float> QuantizerInput(const OperandRequest& request);

// NVFP4. REQUIRES: the operand's columns, and with 16x16 tiles its rows, multiples of 16.
// A NaN in the source makes `decode` NaN. `tensor`: the scale of the tensor that the source is a
// piece of; null: the source is all of it.
QuantizedMatrix Quantize(const OperandRequest& request, const nvfp4::TensorScale* tensor = nullptr);

// A matrix in any other quantised format. Blocks at the right and lower edge may be partial: they
// hold what is left, as if the rest were zeros.
struct ScaledMatrix {
  int64_t rows = 0;
  int64_t cols = 0;        // the dot-product dimension
  float amax = 0;          // of what was quantised, after any Hadamard transform
  float decode = 1;        // fl(1 / s) of FP8 tensor-wise
  int64_t block_rows = 0;  // of a block; the whole matrix is one with FP8 tensor-wise
  int64_t block_cols = 0;
  std::vector<float> elements;  // [rows, cols], the codes' values
  std::vector<float> scales;    // [blocks down, blocks across]: what turns elements into values

  float ScaleAt(int64_t row, int64_t col) const;
  // What a product multiplies: without `decode`.
  float ValueAt(int64_t row, int64_t col) const;
};

// REQUIRES: a quantised format but NVFP4; with stochastic rounding columns that are multiples of
// 16. A NaN in the source makes its block's scale, or `decode`, NaN. `tensor`: as above, of FP8
// tensor-wise.
ScaledMatrix QuantizeScaled(const OperandRequest& request,
                            const nvfp4::BlockScale* tensor = nullptr);

}  // namespace nibble::kernels::reference

#endif  // KERNELS_REFERENCE_QUANTIZE_H_
