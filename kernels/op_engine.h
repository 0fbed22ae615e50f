// What op_runner and the tests ask of a backend beyond kernels/backend.h: the packed NVFP4 codes
// of its own quantiser, and its Hadamard transform.
#ifndef KERNELS_OP_ENGINE_H_
#define KERNELS_OP_ENGINE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"

namespace nibble::kernels {

struct PackedNvfp4 {
  int64_t rows = 0;
  int64_t cols = 0;             // the dot-product dimension
  float amax = 0;               // of what was quantised, after any Hadamard transform
  float decode = 1;             // s_dec
  std::vector<uint8_t> codes;   // [rows, cols / 2], the even element in the low nibble
  std::vector<uint8_t> scales;  // [rows, cols / 16], E4M3
};

class OpEngine {
 public:
  virtual ~OpEngine() = default;
  // The quantiser behind PrepareOperand. REQUIRES: format kNvfp4; the source's dimensions are
  // multiples of 16.
  virtual PackedNvfp4 Quantize(const OperandRequest& request) = 0;
  // Quantised and back in FP32, without what a BF16 storage of subnormals would lose: [rows, cols].
  // Any format; dimensions as PrepareOperand takes them.
  virtual std::vector<float> RoundTrip(const OperandRequest& request) = 0;
  // The transform alone, along the operand's columns: [rows, cols] FP32, rounded to BF16.
  virtual std::vector<float> Hadamard(const OperandRequest& request) = 0;
};

// For the backends of CreateBackend; its errors.
absl::StatusOr<std::unique_ptr<OpEngine>> CreateOpEngine(absl::string_view backend,
                                                         const BackendOptions& options);

// An operand's values times its tensor scale, [rows, cols]. Host backends only.
std::vector<float> DequantizedValues(const Operand& operand);

}  // namespace nibble::kernels

#endif  // KERNELS_OP_ENGINE_H_
