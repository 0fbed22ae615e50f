// The table linear layer x product → operand formats.
#ifndef CLIENT_PRECISION_VIEW_H_
#define CLIENT_PRECISION_VIEW_H_

#include <string>

#include "absl/strings/string_view.h"
#include "client/terminal.h"
#include "nibble/v1/precision.pb.h"

namespace nibble::client {

// "nvfp4 16x16 nearest", "nvfp4 1x16 hadamard-16 stochastic", "bf16".
std::string OperandText(const v1::OperandPrecision& operand);

// One row a layer: name, dimensions and, for each product, both operands:
// "X nvfp4 1x16 nearest · W nvfp4 16x16 nearest". Where that is wider than the terminal, one line a
// product instead, unless `rows_only`. A last column says why a layer is not in the recipe's
// format. What a late switch changes follows, with the step (counted from 1, as metrics are).
void PrintPrecision(const Terminal& terminal, const v1::ResolvedPrecision& precision,
                    bool rows_only);

}  // namespace nibble::client

#endif  // CLIENT_PRECISION_VIEW_H_
