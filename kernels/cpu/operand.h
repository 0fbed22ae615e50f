// Operands and products of the CPU backend. An operand's form: see ops.h. Quantised formats are
// dequantised, in the source's layout, to BF16 where products of BF16 are native and to FP32
// elsewhere; BF16 and FP32 sources are used in place where a product can read them.
#ifndef KERNELS_CPU_OPERAND_H_
#define KERNELS_CPU_OPERAND_H_

#include <cstdint>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/product_kernels.h"
#include "kernels/cpu/quantize_kernels.h"
#include "kernels/cpu/scaled_kernels.h"
#include "kernels/op_args.h"

namespace nibble::kernels::cpu {

// Kernels of an instruction set that the machine has.
const QuantizeKernels& QuantizeKernelsFor(Isa isa);
const ScaledKernels& ScaledKernelsFor(Isa isa);
const ProductKernels& ProductKernelsFor(Isa isa);

// NVFP4 codes as the quantiser emits them, in the source's layout.
struct QuantizedSource {
  float amax = 0;  // of what was quantised, after any Hadamard transform
  float decode = 1;
  std::vector<uint8_t> codes;   // [source rows, source cols], one a byte
  std::vector<uint8_t> scales;  // QuantizeJob::scales
};

class Operands {
 public:
  // `context` must outlive this.
  Operands(OpContext& context, Isa isa);

  int64_t Bytes(const OperandFormat& format, DType source, int64_t rows, int64_t cols) const;
  Operand Prepare(const OperandRequest& request, void* storage);
  void Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate);

  // The same quantiser with codes for output, for tests and op_runner. Allocates.
  QuantizedSource Quantize(const OperandRequest& request);
  // The Hadamard transform that Prepare applies, source layout, FP32. Returns amax.
  float Hadamard(const OperandRequest& request, float* out);

 private:
  bool IsView(const OperandFormat& format, DType source) const;
  void PrepareNvfp4(const OperandRequest& request, float* tensor_scale, void* values);
  void Convert(const Matrix& source, void* values);
  uint32_t MaxMagnitude(const Matrix& source);
  QuantizeJob MeasureAndTransform(const OperandRequest& request, void* transformed, DType type,
                                  float* amax, float* decode);
  uint32_t TransformBands(const OperandRequest& request, void* out, DType out_type);
  // The transform of any size and signs; `out` is not null.
  uint32_t TransformAny(const OperandRequest& request, void* out, DType out_type);
  void PrepareScaled(const OperandRequest& request, float* tensor_scale, void* values);
  void RunQuantizer(const QuantizeJob& job);

  OpContext& context_;
  const QuantizeKernels& quantize_;
  const ScaledKernels& scaled_;
  const ProductKernels& product_;
  const DType storage_;  // of what Prepare writes
};

Operand Transposed(const Operand& operand);

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_OPERAND_H_
