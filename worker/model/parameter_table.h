// Which parameters a model has and where they lie in its flat buffers.
//
// Weights, gradients, optimiser moments and the BF16 copy are flat arrays of one layout: first
// every matrix (the embedding table, those of the branches in forward order, the output head), then
// the others (norms). Each parameter starts at a multiple of kParameterAlignment elements; the gap
// before the next one is zero and stays zero.
#ifndef WORKER_MODEL_PARAMETER_TABLE_H_
#define WORKER_MODEL_PARAMETER_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "worker/model/model_config.h"

namespace nibble::model {

// 256 bytes of BF16.
inline constexpr int64_t kParameterAlignment = 128;

enum class ParameterKind { kEmbedding, kLinear, kHead, kNorm };

// What a parameter starts as.
struct InitialDistribution {
  enum Kind { kNormal, kConstant };
  Kind kind = kNormal;
  double value = 0;  // the standard deviation, or the constant
};

struct Parameter {
  std::string
      name;  // as in a checkpoint, after Hugging Face: "model.layers.0.mlp.down_proj.weight"
  std::vector<int64_t> shape;  // [rows, cols], or [size] for norms
  ParameterKind kind = ParameterKind::kLinear;
  int64_t offset = 0;  // elements from the start of a flat buffer
  int64_t size = 0;    // elements
  InitialDistribution initial;
  // Whether weight decay applies by default.
  bool decay() const { return kind != ParameterKind::kNorm; }
};

// Indexes into ParameterTable::parameters().
struct NormParameters {
  int weight = 0;  // [width]
};
struct LinearParameters {
  int weight = 0;  // [out_features, in_features]
};
struct BranchParameters {
  NormParameters norm;
  // attention: rows of q, then k, then v [qkv_width, width]; MLP: rows of gate, then up
  LinearParameters in;
  LinearParameters out;  // [width, ...]
};

class ParameterTable {
 public:
  // REQUIRES: every dimension is positive, heads a multiple of kv_heads, head_size even.
  explicit ParameterTable(const ModelConfig& config);

  // In the order of the flat buffers; a parameter's index is part of its random initialisation.
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const Parameter& operator[](int index) const { return parameters_[index]; }
  // Of the branches of BranchesOf(config), in their order.
  const std::vector<BranchParameters>& branches() const { return branches_; }
  int embedding() const { return embedding_; }
  const NormParameters& final_norm() const { return final_norm_; }
  int head() const { return head_; }  // the embedding table where they are tied

  // Elements of a flat buffer, gaps included.
  int64_t flat_size() const { return flat_size_; }
  // Trainable values: flat_size() without the gaps.
  int64_t parameter_count() const { return parameter_count_; }

 private:
  int Add(std::string name, std::vector<int64_t> shape, ParameterKind kind,
          InitialDistribution initial);

  std::vector<Parameter> parameters_;
  std::vector<BranchParameters> branches_;
  int embedding_ = 0;
  NormParameters final_norm_;
  int head_ = 0;
  int64_t flat_size_ = 0;
  int64_t parameter_count_ = 0;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_PARAMETER_TABLE_H_
