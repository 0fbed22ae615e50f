#include "worker/model/parameter_table.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble::model {
namespace {

// Names of one branch's parameters within its block, after Hugging Face.
struct BranchNames {
  const char* norm;
  const char* in;
  const char* out;
};

BranchNames NamesOf(BranchKind kind) {
  if (kind == BranchKind::kAttention) {
    return {"input_layernorm", "self_attn.qkv_proj", "self_attn.o_proj"};
  }
  return {"post_attention_layernorm", "mlp.gate_up_proj", "mlp.down_proj"};
}

}  // namespace

ParameterTable::ParameterTable(const ModelConfig& config) {
  NIBBLE_CHECK(config.vocab_size > 0 && config.width > 0 && config.blocks > 0);
  NIBBLE_CHECK(config.heads > 0 && config.kv_heads > 0 && config.heads % config.kv_heads == 0);
  NIBBLE_CHECK(config.head_size > 0 && config.head_size % 2 == 0 && config.mlp_width > 0);
  const std::vector<Branch> branches = BranchesOf(config);
  const std::vector<NamedLinear> linears = LinearsOf(config);
  const InitialDistribution normal{InitialDistribution::kNormal, config.init_std};
  // Every branch adds to the residual stream: without the factor its variance would grow with the
  // depth (GPT-2).
  const InitialDistribution residual{
      InitialDistribution::kNormal,
      config.init_std / std::sqrt(static_cast<double>(branches.size()))};
  const InitialDistribution ones{InitialDistribution::kConstant, 1};
  using Kind = ParameterKind;
  branches_.resize(branches.size());
  const auto name = [&](size_t b, const char* part) {
    return absl::StrCat("model.layers.", branches[b].block, ".", part, ".weight");
  };
  const auto matrix = [&](size_t linear) -> std::vector<int64_t> {
    return {linears[linear].shape.out_features, linears[linear].shape.in_features};
  };

  const std::vector<int64_t> table = {config.vocab_size, config.width};
  embedding_ = Add("model.embed_tokens.weight", table, Kind::kEmbedding, normal);
  for (size_t b = 0; b < branches.size(); ++b) {
    const BranchNames names = NamesOf(branches[b].kind);
    branches_[b].in.weight = Add(name(b, names.in), matrix(2 * b), Kind::kLinear, normal);
    branches_[b].out.weight = Add(name(b, names.out), matrix(2 * b + 1), Kind::kLinear, residual);
  }
  head_ = config.tied_embeddings ? embedding_ : Add("lm_head.weight", table, Kind::kHead, normal);
  for (size_t b = 0; b < branches.size(); ++b) {
    branches_[b].norm.weight =
        Add(name(b, NamesOf(branches[b].kind).norm), {config.width}, Kind::kNorm, ones);
  }
  final_norm_.weight = Add("model.norm.weight", {config.width}, Kind::kNorm, ones);
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
