// Operands and products of the reference backend. An operand's form: see Get(Operand) in ops.h.
// Quantised formats are dequantised to FP32 without their tensor scale.
#ifndef KERNELS_REFERENCE_OPERAND_H_
#define KERNELS_REFERENCE_OPERAND_H_

#include <cstdint>

#include "kernels/op_args.h"

namespace nibble::kernels::reference {

int64_t OperandBytes(const OperandFormat& format, DType source, int64_t rows, int64_t cols);
Operand PrepareOperand(const OperandRequest& request, void* storage);
Operand Transposed(const Operand& operand);
void Multiply(const Operand& a, const Operand& b, Matrix c, bool accumulate);

}  // namespace nibble::kernels::reference

#endif  // KERNELS_REFERENCE_OPERAND_H_
