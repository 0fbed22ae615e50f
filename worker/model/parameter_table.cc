#include "worker/model/parameter_table.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble::model {

ParameterTable::ParameterTable(const LlamaConfig& config) {
  NIBBLE_CHECK(config.vocab_size > 0 && config.width > 0 && config.blocks > 0);
  NIBBLE_CHECK(config.heads > 0 && config.kv_heads > 0 && config.heads % config.kv_heads == 0);
  NIBBLE_CHECK(config.head_size > 0 && config.head_size % 2 == 0 && config.mlp_width > 0);
  const double std = config.init_std;
  // Every block adds two output projections to the residual stream: without the factor its variance
  // would grow with the depth (GPT-2).
  const double output_std = std / std::sqrt(2.0 * static_cast<double>(config.blocks));
  using Kind = ParameterKind;
  blocks_.resize(config.blocks);

  embedding_ =
      Add("model.embed_tokens.weight", {config.vocab_size, config.width}, Kind::kEmbedding, std);
  for (int64_t i = 0; i < config.blocks; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i);
    BlockParameters& block = blocks_[i];
    block.qkv = Add(absl::StrCat(layer, ".self_attn.qkv_proj.weight"),
                    {config.qkv_width(), config.width}, Kind::kLinear, std);
    block.output = Add(absl::StrCat(layer, ".self_attn.o_proj.weight"),
                       {config.width, config.attention_width()}, Kind::kLinear, output_std);
    block.gate_up = Add(absl::StrCat(layer, ".mlp.gate_up_proj.weight"),
                        {2 * config.mlp_width, config.width}, Kind::kLinear, std);
    block.down = Add(absl::StrCat(layer, ".mlp.down_proj.weight"), {config.width, config.mlp_width},
                     Kind::kLinear, output_std);
  }
  head_ = config.tied_embeddings
              ? embedding_
              : Add("lm_head.weight", {config.vocab_size, config.width}, Kind::kHead, std);
  decay_size_ = flat_size_;
  for (int64_t i = 0; i < config.blocks; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i);
    BlockParameters& block = blocks_[i];
    block.attention_norm =
        Add(absl::StrCat(layer, ".input_layernorm.weight"), {config.width}, Kind::kNorm, 0);
    block.mlp_norm = Add(absl::StrCat(layer, ".post_attention_layernorm.weight"), {config.width},
                         Kind::kNorm, 0);
  }
  final_norm_ = Add("model.norm.weight", {config.width}, Kind::kNorm, 0);
}

int ParameterTable::Add(std::string name, std::vector<int64_t> shape, ParameterKind kind,
                        double init_std) {
  Parameter parameter;
  parameter.name = std::move(name);
  parameter.size = 1;
  for (int64_t dimension : shape) parameter.size *= dimension;
  parameter.shape = std::move(shape);
  parameter.kind = kind;
  parameter.init_std = init_std;
  parameter.offset = flat_size_;
  parameter_count_ += parameter.size;
  flat_size_ +=
      (parameter.size + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
  parameters_.push_back(std::move(parameter));
  return static_cast<int>(parameters_.size()) - 1;
}

}  // namespace nibble::model
