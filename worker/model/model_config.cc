#include "worker/model/model_config.h"

#include "absl/strings/str_cat.h"

namespace nibble::model {

std::vector<Branch> BranchesOf(const ModelConfig& config) {
  std::vector<Branch> branches;
  for (int64_t block = 0; block < config.blocks; ++block) {
    branches.push_back({BranchKind::kAttention, block});
    branches.push_back({BranchKind::kMlp, block});
  }
  return branches;
}

std::vector<NamedLinear> LinearsOf(const ModelConfig& config) {
  std::vector<NamedLinear> linears;
  for (const Branch& branch : BranchesOf(config)) {
    const auto add = [&](const char* name, int64_t in, int64_t out) {
      linears.push_back({absl::StrCat("blocks.", branch.block, ".", name), {in, out}});
    };
    switch (branch.kind) {
      case BranchKind::kAttention:
        add("attention.qkv", config.width, config.qkv_width());
        add("attention.output", config.attention_width(), config.width);
        break;
      case BranchKind::kMlp:
        add("mlp.gate_up", config.width, config.mlp_in_width());
        add("mlp.down", config.mlp_width, config.width);
        break;
    }
  }
  return linears;
}

}  // namespace nibble::model
