// How one operand of a matrix product is represented and rounded (docs/numerics.md).
#ifndef KERNELS_OPERAND_FORMAT_H_
#define KERNELS_OPERAND_FORMAT_H_

#include <cstdint>

namespace nibble::kernels {

enum class Format : uint8_t {
  kF32,
  kBF16,
  kNvfp4,    // E2M1, 16 elements a scale
  kMxfp4,    // E2M1, 32
  kMxfp8,    // E4M3, 32
  kFp8,      // E4M3, one scale a tensor
  kFp8E5m2,  // E5M2, one scale a tensor
  kFp8Block  // E4M3, 128 elements or 128x128 a scale
};
enum class Rounding : uint8_t { kNearest, kStochastic };

// The signs s of the Hadamard transform (docs/numerics.md, section 3).
enum class HadamardSigns : uint8_t {
  kFixed,    // the pattern of kernels/nvfp4/hadamard.h, cut or repeated
  kNone,     // all +1
  kDrawn,    // random, from the seed
  kRedrawn,  // random, from the seed and the step
};

// What an NVFP4 block's largest magnitude is mapped to.
enum class BlockTarget : uint8_t {
  kSix,
  kFourOrSixByAbsoluteError,  // four over six: whichever leaves the smaller sum of |error|
  kFourOrSixBySquaredError,
};

struct OperandFormat {
  Format format = Format::kBF16;
  // Rows that share a block scale: 1, or 16 (NVFP4: 16x16 tiles) or 128 (FP8 block-wise: 128x128).
  int block_rows = 1;
  // Hadamard transform along the dot-product dimension before quantising: 0 (none), 4, 16, 32, 64
  // or 128.
  int hadamard_size = 0;
  // kStochastic: E2M1 elements only.
  Rounding rounding = Rounding::kNearest;
  HadamardSigns hadamard_signs = HadamardSigns::kFixed;
  uint64_t hadamard_seed = 0;  // kDrawn, kRedrawn; both operands of a product have the same
  // NVFP4 to nearest without a Hadamard transform, and not transposed, unless kSix.
  BlockTarget block_target = BlockTarget::kSix;

  bool operator==(const OperandFormat&) const = default;
};

// Whether values change beyond a rounding to BF16.
constexpr bool IsQuantised(Format format) {
  return format != Format::kF32 && format != Format::kBF16;
}
constexpr bool HasE2m1Elements(Format format) {
  return format == Format::kNvfp4 || format == Format::kMxfp4;
}
// Elements along the dot-product dimension that share a block scale; 0 where there is none.
constexpr int BlockSizeOf(Format format) {
  switch (format) {
    case Format::kNvfp4:
      return 16;
    case Format::kMxfp4:
    case Format::kMxfp8:
      return 32;
    case Format::kFp8Block:
      return 128;
    default:
      return 0;
  }
}
// Whether the transpose holds the same values: no block runs along one dimension only.
constexpr bool SurvivesTransposition(const OperandFormat& format) {
  const int block = BlockSizeOf(format.format);
  return format.hadamard_size == 0 && (block == 0 || format.block_rows == block);
}

// Product C = A B^T: formats of A [M, K] and B [N, K].
struct ProductFormat {
  OperandFormat first;
  OperandFormat second;

  bool operator==(const ProductFormat&) const = default;
};

// The three products of one linear layer Y = X W^T.
struct LinearFormat {
  ProductFormat fprop;  // X, W
  ProductFormat dgrad;  // dY, W^T
  ProductFormat wgrad;  // dY^T, X^T

  bool operator==(const LinearFormat&) const = default;
};

}  // namespace nibble::kernels

#endif  // KERNELS_OPERAND_FORMAT_H_
