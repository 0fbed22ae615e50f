// Which parameters a model has and where they lie in its flat buffers.
//
// Weights, gradients, optimiser moments and the BF16 copy are flat arrays of one layout: first
// every parameter that weight decay applies to by default (the embedding table, learned positions,
// the matrices of the branches in forward order, the output head), then the others (norms, biases,
// the scan's parameters). Each parameter starts at a multiple of kParameterAlignment elements; the
// gap before the next one is zero and stays zero.
#ifndef WORKER_MODEL_PARAMETER_TABLE_H_
#define WORKER_MODEL_PARAMETER_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "worker/model/model_config.h"

namespace nibble::model {

// 256 bytes of BF16.
inline constexpr int64_t kParameterAlignment = 128;

// kScan: a value a head of a Mamba-2 layer.
enum class ParameterKind { kEmbedding, kPositions, kLinear, kConv, kHead, kNorm, kBias, kScan };

// What a parameter starts as.
struct InitialDistribution {
  enum Kind {
    kNormal,    // of standard deviation `value`
    kConstant,  // `value`
    kUniform,   // within `value` of 0
    // Mamba-2's (arXiv 2405.21060): the logarithm of a decay rate uniform in [1, 16], and what
    // softplus turns into a time step between .001 and .1, its logarithm uniform.
    kLogOfRate,
    kTimeStepBias,
  };
  Kind kind = kNormal;
  double value = 0;
};

struct Parameter {
  std::string
      name;  // as in a checkpoint, after Hugging Face: "model.layers.0.mlp.down_proj.weight"
  std::vector<int64_t> shape;  // [rows, cols], or [size]
  ParameterKind kind = ParameterKind::kLinear;
  int64_t offset = 0;  // elements from the start of a flat buffer
  int64_t size = 0;    // elements
  InitialDistribution initial;
  // Whether weight decay applies by default.
  bool decay() const {
    return kind != ParameterKind::kNorm && kind != ParameterKind::kBias &&
           kind != ParameterKind::kScan;
  }
};

// Indexes into ParameterTable::parameters(); kNone where a family has no such parameter.
inline constexpr int kNone = -1;
struct NormParameters {
  int weight = kNone;  // [width]
  int bias = kNone;    // [width]
};
struct LinearParameters {
  int weight = kNone;  // [out_features, in_features]
  int bias = kNone;    // [out_features]
};
struct MambaParameters {
  int conv_weight = kNone;  // [channels, conv_width]
  int conv_bias = kNone;    // [channels]
  int dt_bias = kNone;      // [heads]
  int a_log = kNone;        // [heads]
  int d = kNone;            // [heads]
  int norm = kNone;         // [inner]
};
struct BranchParameters {
  NormParameters norm;
  // attention: rows of q, then k, then v [qkv_width, width]; MLP: rows of gate, then up; Mamba: as
  // kernels/mamba_args.h has its columns
  LinearParameters in;
  LinearParameters out;  // [width, ...]
  MambaParameters mamba;
};

class ParameterTable {
 public:
  // REQUIRES: every dimension that the family uses is positive, heads a multiple of kv_heads,
  // head_size even where positions are rotary, mamba.heads a multiple of mamba.groups, `pattern`
  // of `blocks` characters or empty.
  explicit ParameterTable(const ModelConfig& config);

  // In the order of the flat buffers; a parameter's index is part of its random initialisation.
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const Parameter& operator[](int index) const { return parameters_[index]; }
  // Of the branches of BranchesOf(config), in their order.
  const std::vector<BranchParameters>& branches() const { return branches_; }
  int embedding() const { return embedding_; }
  int positions() const { return positions_; }  // [max_positions, width], or kNone
  const NormParameters& final_norm() const { return final_norm_; }
  int head() const { return head_; }  // the embedding table where they are tied

  // Elements of a flat buffer, gaps included.
  int64_t flat_size() const { return flat_size_; }
  // Trainable values: flat_size() without the gaps.
  int64_t parameter_count() const { return parameter_count_; }

 private:
  void AddDecaying(const ModelConfig& config);
  void AddOthers(const ModelConfig& config);
  int Add(std::string name, std::vector<int64_t> shape, ParameterKind kind,
          InitialDistribution initial);

  std::vector<Parameter> parameters_;
  std::vector<BranchParameters> branches_;
  int embedding_ = kNone;
  int positions_ = kNone;
  NormParameters final_norm_;
  int head_ = kNone;
  int64_t flat_size_ = 0;
  int64_t parameter_count_ = 0;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_PARAMETER_TABLE_H_
