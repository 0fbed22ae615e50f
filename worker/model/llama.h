// Forward and backward of a model of the family "llama", one micro-batch at a time:
//
//   h = embedding[tokens]
//   per block:  h += output(attention(rope(qkv(norm(h)))));  h += down(swiglu(gate_up(norm(h))))
//   loss_n = cross_entropy(head(norm(h_n)), target_n)
//
// Activations, the residual stream included, are BF16, or FP32 where the recipe is fp32. Every
// buffer is planned when the model is made; Forward and Backward allocate nothing.
#ifndef WORKER_MODEL_LLAMA_H_
#define WORKER_MODEL_LLAMA_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/model/arena.h"
#include "worker/model/linear.h"
#include "worker/model/llama_config.h"
#include "worker/model/weights.h"

namespace nibble::model {

struct LlamaOptions {
  LlamaConfig config;
  uint64_t seed = 0;
  // Training formats in forward order, 4 a block: qkv, output, gate_up, down.
  std::vector<kernels::LinearFormat> linears;
  bool fp32_activations = false;
  int64_t sequence_length = 0;
  int64_t micro_batch_size = 0;  // sequences
  int64_t batch_size = 0;        // sequences of a step: a multiple of micro_batch_size
};

// Device pointers of one micro-batch; N = micro_batch_size * sequence_length.
struct MicroBatch {
  const int32_t* inputs;    // [N]
  const int32_t* targets;   // [N]; < 0: no loss
  float* losses;            // [N] out, nats
  int64_t first_token = 0;  // of this micro-batch within the step
  uint32_t step = 0;        // from 0
};

// Not thread-safe.
class LlamaModel {
 public:
  // `weights` is of a table of options.config and has a BF16 copy unless fp32_activations; it and
  // `backend` outlive the model. RESOURCE_EXHAUSTED where the device has no such memory.
  static absl::StatusOr<std::unique_ptr<LlamaModel>> Create(const LlamaOptions& options,
                                                            Weights& weights,
                                                            kernels::Backend& backend);

  // Brings the weights into the formats of a pass. Call before the first micro-batch of a step or
  // an evaluation, after the weights have changed. `step` from 0.
  void PrepareWeights(PassKind pass, uint32_t step);
  // Losses only. Call after PrepareWeights of either kind.
  void Forward(const MicroBatch& batch);
  // Losses, and the gradient of the mean loss over the step's tokens added to weights.gradients().
  void ForwardBackward(const MicroBatch& batch);

  int64_t micro_batch_tokens() const {
    return options_.micro_batch_size * options_.sequence_length;
  }
  int64_t step_tokens() const { return options_.batch_size * options_.sequence_length; }
  // Device memory planned for activations, operands and workspaces, bytes.
  int64_t arena_bytes() const { return arena_bytes_; }

 private:
  // What forward keeps of a block for backward.
  struct BlockState {
    kernels::Matrix attention_input, attention_normed;  // [N, width]
    float* attention_rms = nullptr;                     // [N]
    kernels::Matrix qkv;                                // [N, qkv_width], rotated
    kernels::Matrix attention_out;                      // [N, attention_width]
    float* log_sum_exp = nullptr;                       // [sequences, heads, sequence_length]
    kernels::Matrix mlp_input, mlp_normed;              // [N, width]
    float* mlp_rms = nullptr;                           // [N]
    kernels::Matrix gate_up;                            // [N, 2 * mlp_width]
    kernels::Matrix activated;                          // [N, mlp_width]
  };
  struct BlockLinears {
    LinearLayer qkv, output, gate_up, down;
  };

  LlamaModel(const LlamaOptions& options, Weights& weights, kernels::Backend& backend);
  void MakeLinears();
  absl::Status AllocateArena();
  void Plan(Arena& arena);
  void PlanBlock(Arena& arena, BlockState& block);
  void FillRopeTable();

  TokenRange RangeOf(const MicroBatch& batch) const;
  void ForwardBlocks(const MicroBatch& batch);
  void ForwardBlock(int64_t index, const TokenRange& tokens);
  void BackwardBlock(int64_t index, const TokenRange& tokens);
  void BackwardAttention(int64_t index, const TokenRange& tokens);
  void BackwardMlp(int64_t index, const TokenRange& tokens);
  void Norm(const kernels::Matrix& residual, const kernels::Matrix& delta,
            const kernels::Matrix& residual_out, int weight, const kernels::Matrix& normed,
            float* reciprocal_rms);
  void NormBackward(const kernels::Matrix& input, int weight, const float* reciprocal_rms);

  const LlamaOptions options_;
  Weights& weights_;
  const ParameterTable& table_;
  kernels::Backend& backend_;
  const kernels::DType activations_;
  const kernels::AttentionShape attention_;
  std::vector<BlockLinears> linears_;

  std::unique_ptr<kernels::DeviceBuffer> memory_;
  int64_t arena_bytes_ = 0;
  std::vector<BlockState> blocks_;
  float* rope_table_ = nullptr;  // [sequence_length, head_size / 2, 2]
  LinearWorkspace workspace_;
  kernels::Operand head_;
  void* head_storage_ = nullptr;
  kernels::Matrix delta_;                       // [N, width]: what a block adds, on its way
  kernels::Matrix final_input_, final_normed_;  // [N, width]
  float* final_rms_ = nullptr;                  // [N]
  // Gradients, alive between two operators.
  kernels::Matrix d_residual_, d_normed_;  // [N, width]
  kernels::Matrix d_qkv_, d_attention_out_, d_gate_up_, d_activated_;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_LLAMA_H_
