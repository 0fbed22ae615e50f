// Dimensions of a model, and what the families are made of.
//
// A model is an embedding, a row of residual branches h += mixer(norm(h)), a last norm and an
// output head. A mixer is attention, an MLP or a Mamba-2 layer; each lies between two linear
// layers, its in- and its out-projection. Most families have two branches a block, attention and
// MLP; in nemotron_h a block is one branch.
#ifndef WORKER_MODEL_MODEL_CONFIG_H_
#define WORKER_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::model {

enum class Family { kLlama };

enum class BranchKind { kAttention, kMlp };

struct ModelConfig {
  Family family = Family::kLlama;
  int64_t vocab_size = 0;
  int64_t width = 0;
  int64_t blocks = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;   // divides heads
  int64_t head_size = 0;  // even
  int64_t mlp_width = 0;
  double rope_theta = 10000;
  double norm_epsilon = 1e-5;
  bool tied_embeddings = false;
  double init_std = 0.02;

  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_size; }
  int64_t attention_width() const { return heads * head_size; }
  // Columns of the MLP's in-projection: gate and up.
  int64_t mlp_in_width() const { return 2 * mlp_width; }
};

struct Branch {
  BranchKind kind = BranchKind::kAttention;
  int64_t block = 0;
};

// In forward order.
std::vector<Branch> BranchesOf(const ModelConfig& config);

// Y = X W^T, W [out_features, in_features].
struct LinearShape {
  int64_t in_features = 0;
  int64_t out_features = 0;
};

struct NamedLinear {
  std::string name;  // as precision policies know it: "blocks.0.attention.qkv"
  LinearShape shape;
};

// In forward order, two a branch: linears 2 b and 2 b + 1 are the in- and the out-projection of
// branch b. A linear's place in this list is its index in the random keys of docs/numerics.md,
// section 4.
std::vector<NamedLinear> LinearsOf(const ModelConfig& config);

}  // namespace nibble::model

#endif  // WORKER_MODEL_MODEL_CONFIG_H_
