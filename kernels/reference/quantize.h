// The NVFP4 quantiser of docs/numerics.md, sections 2 to 4, one element after the other.
#ifndef KERNELS_REFERENCE_QUANTIZE_H_
#define KERNELS_REFERENCE_QUANTIZE_H_

#include <cstdint>
#include <vector>

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

// REQUIRES: format kNvfp4; the operand's columns, and with 16x16 tiles its rows, multiples of 16.
// A NaN in the source makes `decode` NaN.
QuantizedMatrix Quantize(const OperandRequest& request);

}  // namespace nibble::kernels::reference

#endif  // KERNELS_REFERENCE_QUANTIZE_H_
