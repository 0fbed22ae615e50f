// Runs a model forward over one sequence that grows, keeping what later tokens need of earlier ones
// (attention: keys and values; Mamba-2: the state and the end of the convolution's input), so that
// a new token costs one row of every product: generation and scoring.
//
// The weights' formats are those of validation: no quantisation, in FP32 or BF16.
#ifndef WORKER_INFERENCE_DECODER_H_
#define WORKER_INFERENCE_DECODER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/model/arena.h"
#include "worker/model/loss_config.h"
#include "worker/model/model_config.h"
#include "worker/model/weights.h"

namespace nibble::inference {

enum class Precision { kF32, kBF16 };

struct DecoderOptions {
  Precision precision = Precision::kF32;
  // Longest sequence, tokens. Memory grows with it.
  int64_t capacity = 0;
  // Most tokens that one pass takes; longer appends are several passes.
  int64_t chunk = 256;
  // LossConfig::logit_softcap of training.
  double logit_softcap = 0;
};

// Not thread-safe.
class Decoder {
 public:
  // `weights` is of a table of `config` and has a BF16 copy where precision is kBF16; it and
  // `backend` outlive the decoder. RESOURCE_EXHAUSTED: the device has no such memory.
  // INVALID_ARGUMENT: more capacity than the model has learned positions.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(const model::ModelConfig& config,
                                                         const model::Weights& weights,
                                                         const DecoderOptions& options,
                                                         kernels::Backend& backend);

  // Tokens appended and kept so far.
  int64_t length() const { return length_; }
  int64_t capacity() const { return options_.capacity; }
  int64_t vocab_size() const { return config_.vocab_size; }

  // Takes the weights as they are now, and forgets all tokens. Call after they have changed.
  void RefreshWeights();

  // Forgets the tokens from position `length` on. REQUIRES: 0 <= length <= this->length(). Free,
  // but with Mamba-2 layers only for the length before the last Append, where the state is kept:
  // for others what stays is run again.
  void Truncate(int64_t length);

  // Appends tokens[0..count) and writes the logits after each of the last `logit_rows` of them to
  // logits [logit_rows, vocab_size], on the host. OUT_OF_RANGE: a token is no vocabulary entry, or
  // the sequence would exceed the capacity; nothing is appended then.
  // REQUIRES: 0 <= logit_rows <= count.
  absl::Status Append(const int32_t* tokens, int64_t count, int64_t logit_rows, float* logits);

 private:
  // A matrix in the form of a product's second operand.
  struct Weight {
    int parameter = 0;
    int bias = model::kNone;
    void* storage = nullptr;
    kernels::Operand operand;
  };
  struct Branch {
    Weight in, out;
    kernels::Matrix cache;  // attention: [capacity, qkv_width], the rotated projections
    // Mamba-2: the in-projection [conv_width - 1 + chunk, projected_width], whose first rows are
    // the last ones of what came before; the state [heads, head_size, state_size]; and both as they
    // were before the last Append.
    kernels::Matrix projected;
    float* state = nullptr;
    void* saved_rows = nullptr;
    float* saved_state = nullptr;
  };

  Decoder(const model::ModelConfig& config, const model::Weights& weights,
          const DecoderOptions& options, kernels::Backend& backend);
  absl::Status Allocate();
  void Plan(model::Arena& arena);
  void FillRopeTable();
  void PlanMamba(model::Arena& arena, Branch* branch);
  void PlanWeight(model::Arena& arena, const model::LinearParameters& parameters, Weight* weight);
  void Prepare(Weight* weight);
  void Pass(const int32_t* tokens, int64_t count);
  void ForwardBranch(size_t index, int64_t count);
  // y [count, width] from normed_; the projections of attention stay in the cache.
  void Attend(const Branch& branch, int64_t count, const kernels::Matrix& y);
  void ForwardMamba(const Branch& branch, const model::MambaParameters& parameters, int64_t count,
                    const kernels::Matrix& y);
  // Shape of a Mamba-2 layer over `count` tokens.
  kernels::MambaShape MambaShapeOf(int64_t count) const;
  void ForgetStates();
  enum class Saved { kSave, kRestore };
  void CopyStates(Saved direction);
  void ForwardMlp(const Branch& branch, int64_t count, const kernels::Matrix& y);
  void Norm(const kernels::Matrix& delta, const model::NormParameters& norm, int64_t first_row,
            int64_t count);
  void Multiply(const kernels::Matrix& x, const Weight& weight, const kernels::Matrix& y);

  const model::ModelConfig config_;
  const model::Weights& weights_;
  const model::ParameterTable& table_;
  const DecoderOptions options_;
  kernels::Backend& backend_;
  const kernels::DType type_;  // of activations and weights

  std::unique_ptr<kernels::DeviceBuffer> memory_;
  const std::vector<model::Branch> kinds_;
  std::vector<Branch> branches_;
  Weight head_;
  void* workspace_ = nullptr;     // a product's first operand
  float* rope_table_ = nullptr;   // [capacity, head_size / 2, 2]
  int32_t* tokens_ = nullptr;     // [chunk]
  kernels::Matrix residual_;      // [chunk, width]
  kernels::Matrix delta_;         // [chunk, width]: what a branch adds, on its way
  kernels::Matrix normed_;        // [chunk, width]
  kernels::Matrix attended_;      // [chunk, heads * head_size]
  kernels::Matrix projected_;     // [chunk, mlp_in_width]
  kernels::Matrix activated_;     // [chunk, mlp_width]
  kernels::Matrix logits_;        // [chunk, vocab_size] FP32
  float* mean_ = nullptr;         // [chunk]
  float* reciprocal_ = nullptr;   // [chunk]
  float* log_sum_exp_ = nullptr;  // [heads, chunk]
  int64_t length_ = 0;

  // Of models with Mamba-2 layers.
  const bool has_mamba_;
  kernels::Matrix xbc_;              // [conv_width - 1 + chunk, channels]
  kernels::Matrix scanned_;          // [chunk, inner]
  kernels::Matrix gated_;            // [chunk, inner]
  float* reciprocal_rms_ = nullptr;  // [chunk, groups]
  std::vector<int32_t> held_;        // the tokens appended
  int64_t saved_length_ = 0;         // of saved_state
};

}  // namespace nibble::inference

#endif  // WORKER_INFERENCE_DECODER_H_
