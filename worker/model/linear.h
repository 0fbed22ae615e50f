// One linear layer Y = X W^T with the three products of training, each operand in its own format.
#ifndef WORKER_MODEL_LINEAR_H_
#define WORKER_MODEL_LINEAR_H_

#include <cstdint>

#include "kernels/backend.h"
#include "worker/model/arena.h"
#include "worker/model/linear_probe.h"
#include "worker/model/model_config.h"
#include "worker/model/precision_policy.h"

namespace nibble::model {

// Which formats a pass uses.
enum class PassKind { kTraining, kEvaluation };

// Storage for operands that live for one product only, shared by all layers: `first` for X and dY,
// `second` for X^T.
struct LinearWorkspace {
  void* first = nullptr;
  void* second = nullptr;
};

struct LinearWorkspaceBytes {
  int64_t first = 0;
  int64_t second = 0;
};

// Where the rows of a micro-batch lie in the whole step: stochastic rounding draws by these, so
// that the split into micro-batches does not change what is drawn.
struct TokenRange {
  int64_t first_token = 0;
  int64_t total_tokens = 0;      // of the step
  uint32_t step = 0;             // from 0
  LinearProbe* probe = nullptr;  // hears of every operand of a training pass; may be null
};

struct LinearBackwardArgs {
  kernels::Matrix d_y;  // [N, out]
  kernels::Matrix x;    // [N, in], as given to Forward
  kernels::Matrix d_x;  // [N, in] out (overwritten)
  float* d_weight;      // [out, in] accumulated
  TokenRange tokens;
};

// Holds the prepared forms of its weight: made once a step by PrepareWeights, used by every
// micro-batch. Not thread-safe.
class LinearLayer {
 public:
  // `index`: the layer's number in forward order, in `precision` and in the random keys.
  // `high_precision`: the format of both operands in evaluation. `backend` and `precision` outlive
  // it.
  LinearLayer(kernels::Backend& backend, int index, uint64_t seed, LinearShape shape,
              const PrecisionPolicy& precision, const kernels::OperandFormat& high_precision);

  // Takes storage for the prepared weights.
  void Plan(Arena& arena);
  // What a pass over micro-batches of `tokens` rows of `activations` needs.
  LinearWorkspaceBytes WorkspaceBytes(int64_t tokens, kernels::DType activations) const;

  // Which of the two that PrepareWeights takes.
  kernels::DType WeightType(PassKind pass, uint32_t step) const;
  // `weight` [out, in]: the BF16 copy or the FP32 master weights; unchanged while the operands are
  // used. For kEvaluation only Forward may follow.
  void PrepareWeights(const kernels::Matrix& weight, PassKind pass, uint32_t step);

  // y [N, out] = x [N, in] W^T.
  void Forward(const kernels::Matrix& x, const kernels::Matrix& y, const TokenRange& tokens,
               const LinearWorkspace& workspace);
  // d_x = d_y W; d_weight += d_y^T x.
  void Backward(const LinearBackwardArgs& args, const LinearWorkspace& workspace);

  const LinearShape& shape() const { return shape_; }

 private:
  // Tensor ids of docs/numerics.md, section 4.
  enum TensorRole : uint32_t { kGradient = 0, kGradientColumns = 1, kActivation = 2, kWeight = 3 };
  kernels::StochasticKey Key(TensorRole role, uint32_t step) const;

  kernels::Backend& backend_;
  const int index_;
  const uint64_t seed_;
  const LinearShape shape_;
  const PrecisionPolicy& precision_;
  const kernels::OperandFormat high_precision_;
  const kernels::LinearFormat* training_;  // of the step that the weights are prepared for
  PassKind pass_ = PassKind::kTraining;
  void* weight_storage_ = nullptr;
  void* transposed_storage_ = nullptr;
  kernels::OperandRequest weight_request_, transposed_request_;
  kernels::Operand weight_;      // [out, in]
  kernels::Operand transposed_;  // [in, out]
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_LINEAR_H_
