// How one operand of a matrix product is represented and rounded (docs/numerics.md).
#ifndef KERNELS_OPERAND_FORMAT_H_
#define KERNELS_OPERAND_FORMAT_H_

#include <cstdint>

namespace nibble::kernels {

enum class Format : uint8_t { kF32, kBF16, kNvfp4 };
enum class Rounding : uint8_t { kNearest, kStochastic };

struct OperandFormat {
  Format format = Format::kBF16;
  // Rows that share a block scale, NVFP4 only: 1 (1x16 blocks) or 16 (16x16 tiles).
  int block_rows = 1;
  // Random Hadamard transform along the dot-product dimension before quantising: 0 (none) or 16.
  int hadamard_size = 0;
  Rounding rounding = Rounding::kNearest;

  bool operator==(const OperandFormat&) const = default;
};

// Product C = A B^T: formats of A [M, K] and B [N, K].
struct ProductFormat {
  OperandFormat first;
  OperandFormat second;
};

// The three products of one linear layer Y = X W^T.
struct LinearFormat {
  ProductFormat fprop;  // X, W
  ProductFormat dgrad;  // dY, W^T
  ProductFormat wgrad;  // dY^T, X^T
};

}  // namespace nibble::kernels

#endif  // KERNELS_OPERAND_FORMAT_H_
