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

// kLlama: RMSNorm, rotary positions, SwiGLU. kGpt2: LayerNorm, learned positions, GELU, biases.
// kNemotron: as kLlama with a squared ReLU and no gate. kNemotronH: RMSNorm, no positions, squared
// ReLU, Mamba-2; its blocks are those of `pattern`.
enum class Family { kLlama, kGpt2, kNemotron, kNemotronH };

enum class BranchKind { kAttention, kMlp, kMamba };

enum class MlpActivation { kSwiGlu, kSquaredRelu, kGelu, kGeluTanh };

// A Mamba-2 layer (kernels/mamba_args.h).
struct MambaConfig {
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t groups = 0;  // divides heads
  int64_t state_size = 0;
  int64_t conv_width = 0;
  int64_t chunk_size = 0;

  int64_t inner() const { return heads * head_size; }
  int64_t channels() const { return inner() + 2 * groups * state_size; }
  int64_t projected_width() const { return inner() + channels() + heads; }
};

struct ModelConfig {
  Family family = Family::kLlama;
  int64_t vocab_size = 0;
  int64_t width = 0;
  int64_t blocks = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;   // divides heads
  int64_t head_size = 0;  // even where positions are rotary
  int64_t mlp_width = 0;
  MlpActivation activation = MlpActivation::kSwiGlu;
  int64_t max_positions = 0;  // of learned positions
  // A character a block: M Mamba-2, * attention, - MLP. Empty: each block is attention, then MLP.
  std::string pattern;
  MambaConfig mamba;
  double rope_theta = 10000;
  double norm_epsilon = 1e-5;
  bool tied_embeddings = false;
  double init_std = 0.02;

  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_size; }
  int64_t attention_width() const { return heads * head_size; }
  bool gated() const { return activation == MlpActivation::kSwiGlu; }
  // Columns of the MLP's in-projection: gate and up, or up alone.
  int64_t mlp_in_width() const { return gated() ? 2 * mlp_width : mlp_width; }
  bool layer_norm() const { return family == Family::kGpt2; }  // else RMS norm
  bool biases() const { return family == Family::kGpt2; }
  bool rotary() const { return family == Family::kLlama || family == Family::kNemotron; }
  bool learned_positions() const { return family == Family::kGpt2; }
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
