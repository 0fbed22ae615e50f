#include "worker/model/model_config.h"

#include "absl/strings/str_cat.h"

namespace nibble::model {

std::vector<Branch> BranchesOf(const ModelConfig& config) {
  std::vector<Branch> branches;
  if (!config.pattern.empty()) {
    for (int64_t block = 0; block < config.blocks; ++block) {
      const char c = config.pattern[block];
      branches.push_back({c == 'M'   ? BranchKind::kMamba
                          : c == '*' ? BranchKind::kAttention
                                     : BranchKind::kMlp,
                          block});
    }
    return branches;
  }
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
        add(config.gated() ? "mlp.gate_up" : "mlp.up", config.width, config.mlp_in_width());
        add("mlp.down", config.mlp_width, config.width);
        break;
      case BranchKind::kMamba:
        add("mamba.in_proj", config.width, config.mamba.projected_width());
        add("mamba.out_proj", config.mamba.inner(), config.width);
        break;
    }
  }
  return linears;
}

}  // namespace nibble::model
