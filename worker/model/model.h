// Forward and backward of a model of any family, one micro-batch at a time:
//
//   h = embedding[tokens] (+ positions, where they are learned)
//   per residual branch:  h += mixer(norm(h))
//   loss_n = cross_entropy(head(norm(h_n)), target_n)
//
// Activations, the residual stream included, are BF16, or FP32 where the recipe is fp32. Every
// buffer is planned when the model is made; a pass allocates nothing.
#ifndef WORKER_MODEL_MODEL_H_
#define WORKER_MODEL_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/model/arena.h"
#include "worker/model/linear.h"
#include "worker/model/loss_config.h"
#include "worker/model/model_config.h"
#include "worker/model/parts.h"
#include "worker/model/weights.h"

namespace nibble::model {

struct ModelOptions {
  ModelConfig config;
  uint64_t seed = 0;
  PrecisionPolicy precision;  // training formats of LinearsOf(config), in that order
  bool fp32_activations = false;
  int64_t sequence_length = 0;
  int64_t micro_batch_size = 0;  // sequences
  int64_t batch_size = 0;        // sequences of a step: a multiple of micro_batch_size
  LossConfig loss;
};

// Device pointers of one micro-batch; N = micro_batch_size * sequence_length.
struct MicroBatch {
  const int32_t* inputs;              // [N]
  const int32_t* targets;             // [N]; < 0: no loss
  float* losses;                      // [N] out, nats
  int64_t first_token = 0;            // of this micro-batch within the step
  uint32_t step = 0;                  // from 0
  float* log_sum_exp = nullptr;       // [N] out, of the logits; null: not wanted
  const float* row_scales = nullptr;  // [N] weights of the losses in the gradient; null: all 1
  LinearProbe* probe = nullptr;       // TokenRange::probe
  // Called by ForwardBackward between the two; null: not wanted.
  const std::function<void()>* before_backward = nullptr;
};

// Not thread-safe.
class Model {
 public:
  // `weights` is of a table of options.config and has a BF16 copy unless fp32_activations; it and
  // `backend` outlive the model. RESOURCE_EXHAUSTED where the device has no such memory.
  static absl::StatusOr<std::unique_ptr<Model>> Create(const ModelOptions& options,
                                                       Weights& weights, kernels::Backend& backend);

  // Brings the weights into the formats of a pass. Call before the first micro-batch of a step or
  // an evaluation, after the weights have changed. `step` from 0.
  void PrepareWeights(PassKind pass, uint32_t step);
  // Losses only. Call after PrepareWeights of either kind.
  void Forward(const MicroBatch& batch);
  // Losses, and the gradient of the mean over the step's tokens of row_scales (loss + z-loss) added
  // to weights.gradients().
  void ForwardBackward(const MicroBatch& batch);
  // The same after Forward of the same inputs, with nothing in between: does not run forward again.
  void Backward(const MicroBatch& batch);
  // What the model says of the token after each position: logits [N, vocab_size], FP32, on the
  // device, before any soft cap (model::SoftCap). `inputs` [N]. Call after PrepareWeights(kEvaluation, ...).
  void Logits(const int32_t* inputs, const kernels::Matrix& logits);

  // PrecisionPolicy::SetRaised.
  void SetRaised(std::vector<RaisedLayer> raised) {
    options_.precision.SetRaised(std::move(raised));
  }

  int64_t micro_batch_tokens() const { return context_.tokens(); }
  int64_t step_tokens() const { return options_.batch_size * options_.sequence_length; }
  // Device memory planned for activations, operands and workspaces, bytes.
  int64_t arena_bytes() const { return arena_bytes_; }

 private:
  struct ResidualBranch {
    NormPart norm;
    std::unique_ptr<Mixer> mixer;
  };

  Model(const ModelOptions& options, Weights& weights, kernels::Backend& backend);
  void MakeBranches();
  absl::Status AllocateArena();
  void Plan(Arena& arena);
  void PlanScratch(Arena& arena);
  void FillRopeTable();

  void ForwardBranches(const int32_t* inputs, const TokenRange& tokens);
  TokenRange RangeOf(const MicroBatch& batch) const;
  kernels::LmHeadArgs HeadArgs(const MicroBatch& batch) const;

  ModelOptions options_;  // but for raised layers, as created
  Weights& weights_;
  const ParameterTable& table_;
  kernels::Backend& backend_;
  PartsContext context_;
  std::vector<ResidualBranch> branches_;
  NormPart final_norm_;

  std::unique_ptr<kernels::DeviceBuffer> memory_;
  int64_t arena_bytes_ = 0;
  float* rope_table_ = nullptr;
  kernels::Operand head_;
  void* head_storage_ = nullptr;
  void* logits_storage_ = nullptr;         // of the last norm's output as an operand
  kernels::Matrix delta_;                  // [N, width]: what a branch adds, on its way
  kernels::Matrix d_residual_, d_normed_;  // [N, width]
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_MODEL_H_
