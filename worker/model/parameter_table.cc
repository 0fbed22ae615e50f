#include "worker/model/parameter_table.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble::model {
namespace {

using Kind = ParameterKind;

// Names after Hugging Face's models of the family.
struct ModelNames {
  const char* embedding;
  const char* blocks;
  const char* final_norm;
};

ModelNames NamesOf(Family family) {
  switch (family) {
    case Family::kGpt2:
      return {"transformer.wte", "transformer.h.", "transformer.ln_f"};
    case Family::kNemotronH:
      return {"backbone.embeddings", "backbone.layers.", "backbone.norm_f"};
    case Family::kLlama:
    case Family::kNemotron:
      break;
  }
  return {"model.embed_tokens", "model.layers.", "model.norm"};
}

// Of one branch, within its block.
struct BranchNames {
  const char* norm;
  const char* in;
  const char* out;
};

BranchNames NamesOf(const ModelConfig& config, BranchKind kind) {
  const bool attention = kind == BranchKind::kAttention;
  if (config.family == Family::kGpt2) {
    return attention ? BranchNames{"ln_1", "attn.c_attn", "attn.c_proj"}
                     : BranchNames{"ln_2", "mlp.c_fc", "mlp.c_proj"};
  }
  if (config.family == Family::kNemotronH) {
    if (kind == BranchKind::kMamba) return {"norm", "mixer.in_proj", "mixer.out_proj"};
    return attention ? BranchNames{"norm", "mixer.qkv_proj", "mixer.o_proj"}
                     : BranchNames{"norm", "mixer.up_proj", "mixer.down_proj"};
  }
  return attention
             ? BranchNames{"input_layernorm", "self_attn.qkv_proj", "self_attn.o_proj"}
             : BranchNames{"post_attention_layernorm",
                           config.gated() ? "mlp.gate_up_proj" : "mlp.up_proj", "mlp.down_proj"};
}

void CheckDimensions(const ModelConfig& config) {
  NIBBLE_CHECK(config.vocab_size > 0 && config.width > 0 && config.blocks > 0);
  NIBBLE_CHECK(config.pattern.empty() ||
               static_cast<int64_t>(config.pattern.size()) == config.blocks);
  NIBBLE_CHECK(!config.learned_positions() || config.max_positions > 0);
  for (const Branch& branch : BranchesOf(config)) {
    switch (branch.kind) {
      case BranchKind::kAttention:
        NIBBLE_CHECK(config.heads > 0 && config.kv_heads > 0 && config.head_size > 0);
        NIBBLE_CHECK(config.heads % config.kv_heads == 0);
        NIBBLE_CHECK(!config.rotary() || config.head_size % 2 == 0);
        break;
      case BranchKind::kMlp:
        NIBBLE_CHECK(config.mlp_width > 0);
        break;
      case BranchKind::kMamba:
        NIBBLE_CHECK(config.mamba.inner() > 0 && config.mamba.state_size > 0);
        NIBBLE_CHECK(config.mamba.conv_width > 0 && config.mamba.chunk_size > 0);
        NIBBLE_CHECK(config.mamba.groups > 0 && config.mamba.heads % config.mamba.groups == 0);
        break;
    }
  }
}

std::string BlockPrefix(const ModelConfig& config, const Branch& branch) {
  return absl::StrCat(NamesOf(config.family).blocks, branch.block, ".");
}

constexpr InitialDistribution kOnes{InitialDistribution::kConstant, 1};
constexpr InitialDistribution kZeros{InitialDistribution::kConstant, 0};

}  // namespace

ParameterTable::ParameterTable(const ModelConfig& config) {
  CheckDimensions(config);
  branches_.resize(BranchesOf(config).size());
  AddDecaying(config);
  AddOthers(config);
}

void ParameterTable::AddDecaying(const ModelConfig& config) {
  const std::vector<Branch> branches = BranchesOf(config);
  const std::vector<NamedLinear> linears = LinearsOf(config);
  const InitialDistribution normal{InitialDistribution::kNormal, config.init_std};
  // Every branch adds to the residual stream: without the factor its variance would grow with the
  // depth (GPT-2).
  const InitialDistribution residual{
      InitialDistribution::kNormal,
      config.init_std / std::sqrt(static_cast<double>(branches.size()))};
  const auto matrix = [&](size_t linear) -> std::vector<int64_t> {
    return {linears[linear].shape.out_features, linears[linear].shape.in_features};
  };
  const std::vector<int64_t> table = {config.vocab_size, config.width};
  embedding_ = Add(absl::StrCat(NamesOf(config.family).embedding, ".weight"), table,
                   Kind::kEmbedding, normal);
  if (config.learned_positions()) {
    positions_ = Add("transformer.wpe.weight", {config.max_positions, config.width},
                     Kind::kPositions, normal);
  }
  for (size_t b = 0; b < branches.size(); ++b) {
    const std::string block = BlockPrefix(config, branches[b]);
    const BranchNames names = NamesOf(config, branches[b].kind);
    BranchParameters& parameters = branches_[b];
    parameters.in.weight =
        Add(absl::StrCat(block, names.in, ".weight"), matrix(2 * b), Kind::kLinear, normal);
    if (branches[b].kind == BranchKind::kMamba) {
      // PyTorch's default of a depthwise convolution.
      const double limit = 1 / std::sqrt(static_cast<double>(config.mamba.conv_width));
      parameters.mamba.conv_weight = Add(absl::StrCat(block, "mixer.conv1d.weight"),
                                         {config.mamba.channels(), config.mamba.conv_width},
                                         Kind::kConv, {InitialDistribution::kUniform, limit});
    }
    parameters.out.weight =
        Add(absl::StrCat(block, names.out, ".weight"), matrix(2 * b + 1), Kind::kLinear, residual);
  }
  head_ = config.tied_embeddings ? embedding_ : Add("lm_head.weight", table, Kind::kHead, normal);
}

void ParameterTable::AddOthers(const ModelConfig& config) {
  const std::vector<Branch> branches = BranchesOf(config);
  const auto norm = [&](const std::string& name) {
    NormParameters parameters;
    parameters.weight = Add(absl::StrCat(name, ".weight"), {config.width}, Kind::kNorm, kOnes);
    if (config.layer_norm()) {
      parameters.bias = Add(absl::StrCat(name, ".bias"), {config.width}, Kind::kBias, kZeros);
    }
    return parameters;
  };
  for (size_t b = 0; b < branches.size(); ++b) {
    const std::string block = BlockPrefix(config, branches[b]);
    const BranchNames names = NamesOf(config, branches[b].kind);
    BranchParameters& parameters = branches_[b];
    parameters.norm = norm(block + names.norm);
    if (config.biases()) {
      parameters.in.bias = Add(absl::StrCat(block, names.in, ".bias"),
                               {parameters_[parameters.in.weight].shape[0]}, Kind::kBias, kZeros);
      parameters.out.bias =
          Add(absl::StrCat(block, names.out, ".bias"), {config.width}, Kind::kBias, kZeros);
    }
    if (branches[b].kind != BranchKind::kMamba) continue;
    const MambaConfig& mamba = config.mamba;
    MambaParameters& scan = parameters.mamba;
    const auto add = [&](const char* name, int64_t size, Kind kind, InitialDistribution initial) {
      return Add(absl::StrCat(block, "mixer.", name), {size}, kind, initial);
    };
    scan.conv_bias = add("conv1d.bias", mamba.channels(), Kind::kBias, kZeros);
    scan.dt_bias =
        add("dt_bias", mamba.heads, Kind::kScan, {InitialDistribution::kTimeStepBias, 0});
    scan.a_log = add("A_log", mamba.heads, Kind::kScan, {InitialDistribution::kLogOfRate, 0});
    scan.d = add("D", mamba.heads, Kind::kScan, kOnes);
    scan.norm = add("norm.weight", mamba.inner(), Kind::kNorm, kOnes);
  }
  final_norm_ = norm(NamesOf(config.family).final_norm);
}

int ParameterTable::Add(std::string name, std::vector<int64_t> shape, ParameterKind kind,
                        InitialDistribution initial) {
  Parameter parameter;
  parameter.name = std::move(name);
  parameter.size = 1;
  for (int64_t dimension : shape) parameter.size *= dimension;
  parameter.shape = std::move(shape);
  parameter.kind = kind;
  parameter.initial = initial;
  parameter.offset = flat_size_;
  parameter_count_ += parameter.size;
  flat_size_ +=
      (parameter.size + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
  parameters_.push_back(std::move(parameter));
  return static_cast<int>(parameters_.size()) - 1;
}

}  // namespace nibble::model
