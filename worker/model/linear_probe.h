// What a linear layer tells of its operands while it trains, for measurements (quantisation
// health). Listening changes nothing of the training.
#ifndef WORKER_MODEL_LINEAR_PROBE_H_
#define WORKER_MODEL_LINEAR_PROBE_H_

#include "kernels/op_args.h"

namespace nibble::model {

// In the order of their use in a step.
enum class OperandKind {
  kFpropActivation,
  kFpropWeight,
  kDgradGradient,
  kDgradWeight,
  kWgradGradient,
  kWgradActivation,
};

class LinearProbe {
 public:
  virtual ~LinearProbe() = default;
  // `operand` was made of `request`; both are valid during the call only.
  virtual void OnOperand(int layer, OperandKind kind, const kernels::OperandRequest& request,
                         const kernels::Operand& operand) = 0;
  // The operands of the weight gradient and what they were made of. To follow the calls for them.
  virtual void OnWeightGradient(int layer, const kernels::OperandRequest& gradient,
                                const kernels::Operand& gradient_operand,
                                const kernels::OperandRequest& activation,
                                const kernels::Operand& activation_operand) = 0;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_LINEAR_PROBE_H_
