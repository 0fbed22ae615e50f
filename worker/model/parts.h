// What the parts of a model have in common.
#ifndef WORKER_MODEL_PARTS_H_
#define WORKER_MODEL_PARTS_H_

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "worker/model/arena.h"
#include "worker/model/linear.h"
#include "worker/model/model_config.h"
#include "worker/model/weights.h"

namespace nibble::model {

// Shared by all parts of one model and outliving them. Matrices between parts are [tokens, ...] of
// type `activations`.
struct PartsContext {
  const ModelConfig& config;
  Weights& weights;
  kernels::Backend& backend;
  kernels::DType activations;
  int64_t sequences;  // of a micro-batch
  int64_t sequence_length;
  LinearWorkspace workspace;          // set before the first pass
  const float* rope_table = nullptr;  // [sequence_length, head_size / 2, 2]; set likewise

  int64_t tokens() const { return sequences * sequence_length; }
  kernels::OperandFormat high_precision() const {
    kernels::OperandFormat format;
    format.format =
        activations == kernels::DType::kF32 ? kernels::Format::kF32 : kernels::Format::kBF16;
    return format;
  }
  kernels::Matrix TakeActivations(Arena& arena, int64_t cols) const {
    return arena.TakeMatrix(activations, tokens(), cols);
  }
};

// The operator of an MLP without a gate. REQUIRES: not kSwiGlu.
kernels::Activation PlainActivation(MlpActivation activation);

// A norm and the residual addition before it. Keeps what it normalised and what came out.
class NormPart {
 public:
  NormPart(PartsContext& context, const NormParameters& parameters)
      : context_(context), parameters_(parameters) {}

  void Plan(Arena& arena);
  // input() = residual + delta; normed() = norm(input()). Without delta.data the residual is taken
  // as it is and must be input().
  void Forward(const kernels::Matrix& residual, const kernels::Matrix& delta);
  // d_residual += the gradient of input().
  void Backward(const kernels::Matrix& d_normed, const kernels::Matrix& d_residual);

  const kernels::Matrix& input() const { return input_; }    // [N, width]
  const kernels::Matrix& normed() const { return normed_; }  // [N, width]

 private:
  PartsContext& context_;
  const NormParameters parameters_;
  kernels::Matrix input_, normed_;
  float* mean_ = nullptr;        // [N], of a layer norm
  float* reciprocal_ = nullptr;  // [N]: of the RMS, or of the standard deviation
};

// A linear layer with its parameters. A bias is added to the rounded product.
class Projection {
 public:
  Projection(PartsContext& context, LinearLayer layer, const LinearParameters& parameters)
      : context_(context), layer_(std::move(layer)), parameters_(parameters) {}

  void Plan(Arena& arena) { layer_.Plan(arena); }
  void PrepareWeights(PassKind pass, uint32_t step);
  // y [N, out] = x W^T + bias.
  void Forward(const kernels::Matrix& x, const kernels::Matrix& y, const TokenRange& tokens);
  // From d_y and the x of Forward: d_x (overwritten), and the parameters' gradients.
  void Backward(const kernels::Matrix& d_y, const kernels::Matrix& x, const kernels::Matrix& d_x,
                const TokenRange& tokens);

  const LinearLayer& layer() const { return layer_; }
  LinearLayer& layer() { return layer_; }

 private:
  PartsContext& context_;
  LinearLayer layer_;
  const LinearParameters parameters_;
};

// What a residual branch does between its norm and the addition. Backward goes with the Forward
// before it, of the same micro-batch.
class Mixer {
 public:
  Mixer(PartsContext& context, Projection in, Projection out)
      : context_(context), in_(std::move(in)), out_(std::move(out)) {}
  virtual ~Mixer() = default;

  // Memory that Forward fills and Backward reads.
  virtual void PlanKept(Arena& arena) = 0;
  // Memory of Backward alone, shared with the other mixers of the model.
  virtual void PlanScratch(Arena& arena) = 0;
  // y [N, width] from x [N, width].
  virtual void Forward(const kernels::Matrix& x, const kernels::Matrix& y,
                       const TokenRange& tokens) = 0;
  // d_x (overwritten) and the parameters' gradients.
  virtual void Backward(const kernels::Matrix& d_y, const kernels::Matrix& x,
                        const kernels::Matrix& d_x, const TokenRange& tokens) = 0;

  Projection& in() { return in_; }
  Projection& out() { return out_; }

 protected:
  PartsContext& context_;
  Projection in_, out_;
};

// softmax(q k^T) v over q, k, v of the in-projection, rotated where positions are rotary.
class AttentionMixer : public Mixer {
 public:
  using Mixer::Mixer;
  void PlanKept(Arena& arena) override;
  void PlanScratch(Arena& arena) override;
  void Forward(const kernels::Matrix& x, const kernels::Matrix& y,
               const TokenRange& tokens) override;
  void Backward(const kernels::Matrix& d_y, const kernels::Matrix& x, const kernels::Matrix& d_x,
                const TokenRange& tokens) override;

 private:
  kernels::AttentionShape shape() const;

  void Rotate(const kernels::Matrix& qkv, bool inverse);

  kernels::Matrix qkv_;           // [N, qkv_width], rotated
  kernels::Matrix attended_;      // [N, attention_width]
  float* log_sum_exp_ = nullptr;  // [sequences, heads, sequence_length]
  kernels::Matrix d_qkv_, d_attended_;
};

// out(silu(gate) * up), [gate | up] of the in-projection; or out(activation(up)).
class MlpMixer : public Mixer {
 public:
  using Mixer::Mixer;
  void PlanKept(Arena& arena) override;
  void PlanScratch(Arena& arena) override;
  void Forward(const kernels::Matrix& x, const kernels::Matrix& y,
               const TokenRange& tokens) override;
  void Backward(const kernels::Matrix& d_y, const kernels::Matrix& x, const kernels::Matrix& d_x,
                const TokenRange& tokens) override;

 private:
  kernels::Matrix projected_;  // [N, mlp_in_width]
  kernels::Matrix activated_;  // [N, mlp_width]
  kernels::Matrix d_projected_, d_activated_;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_PARTS_H_
