#include "proto/spec/model_size.h"

#include <algorithm>

#include "proto/spec/limits.h"

namespace nibble::spec {
namespace {

// A sum of products that remembers whether any of it overflowed.
class CheckedSum {
 public:
  void Add(int64_t a, int64_t b) {
    int64_t product = 0;
    overflow_ |= __builtin_mul_overflow(a, b, &product);
    overflow_ |= __builtin_add_overflow(sum_, product, &sum_);
  }
  std::optional<int64_t> value() const {
    return overflow_ ? std::nullopt : std::optional<int64_t>(sum_);
  }

 private:
  int64_t sum_ = 0;
  bool overflow_ = false;
};

struct Mamba {
  int64_t inner, heads, channels, conv_width, state_size, groups;
};

Mamba MambaOf(const v1::ModelSpec& model) {
  const v1::MambaSpec& spec = model.mamba();
  Mamba mamba;
  mamba.inner = int64_t{spec.expand()} * model.width();
  mamba.heads = spec.head_size() == 0 ? 0 : mamba.inner / spec.head_size();
  mamba.channels = mamba.inner + 2 * int64_t{spec.groups()} * spec.state_size();
  mamba.conv_width = spec.conv_width();
  mamba.state_size = spec.state_size();
  mamba.groups = spec.groups();
  return mamba;
}

// The branches of a block, in order: * attention, - MLP, M Mamba-2.
std::string BranchesOf(const v1::ModelSpec& model, int block) {
  return model.family() == "nemotron_h" ? std::string(1, model.pattern()[block]) : "*-";
}

// Of the whole model.
int64_t CountBranches(const v1::ModelSpec& model, char kind) {
  int64_t count = 0;
  for (int block = 0; block < model.blocks(); ++block) {
    for (const char c : BranchesOf(model, block)) count += c == kind ? 1 : 0;
  }
  return count;
}

bool Gpt2(const v1::ModelSpec& model) { return model.family() == "gpt2"; }

}  // namespace

std::vector<LinearShape> LinearsOf(const v1::ModelSpec& model) {
  const int64_t width = model.width();
  const int64_t attention = int64_t{model.heads()} * model.head_size();
  const int64_t kv = int64_t{model.kv_heads()} * model.head_size();
  const int64_t mlp = model.mlp_width();
  const bool gated = model.family() == "llama";
  const Mamba mamba = MambaOf(model);
  std::vector<LinearShape> linears;
  for (int block = 0; block < model.blocks(); ++block) {
    for (const char kind : BranchesOf(model, block)) {
      if (kind == '*') {
        linears.push_back({"attention.qkv", block, width, attention + 2 * kv});
        linears.push_back({"attention.output", block, attention, width});
      } else if (kind == '-') {
        linears.push_back({gated ? "mlp.gate_up" : "mlp.up", block, width, gated ? 2 * mlp : mlp});
        linears.push_back({"mlp.down", block, mlp, width});
      } else {
        linears.push_back(
            {"mamba.in_proj", block, width, mamba.inner + mamba.channels + mamba.heads});
        linears.push_back({"mamba.out_proj", block, mamba.inner, width});
      }
    }
  }
  return linears;
}

std::optional<int64_t> CountParameters(const v1::ModelSpec& model) {
  const std::vector<LinearShape> linears = LinearsOf(model);
  CheckedSum total;
  for (const LinearShape& linear : linears) {
    total.Add(linear.in_features, linear.out_features);
    if (Gpt2(model)) total.Add(1, linear.out_features);
  }
  const int64_t norms = static_cast<int64_t>(linears.size()) / 2 + 1;
  total.Add(Gpt2(model) ? 2 * norms : norms, model.width());
  if (Gpt2(model)) total.Add(model.max_positions(), model.width());
  const Mamba mamba = MambaOf(model);
  // Convolution with bias; dt_bias, A_log and D; the gated norm.
  total.Add(CountBranches(model, 'M'),
            mamba.channels * (mamba.conv_width + 1) + 3 * mamba.heads + mamba.inner);
  total.Add(int64_t{model.vocab_size()} * (model.tied_embeddings() ? 1 : 2), model.width());
  const std::optional<int64_t> parameters = total.value();
  if (!parameters.has_value() || *parameters > kMaxParameters) return std::nullopt;
  return parameters;
}

double FlopsPerToken(const v1::ModelSpec& model, int64_t sequence_length) {
  double weights = static_cast<double>(model.vocab_size()) * model.width();
  for (const LinearShape& linear : LinearsOf(model)) {
    weights += static_cast<double>(linear.in_features) * static_cast<double>(linear.out_features);
  }
  const double attention = 12.0 * static_cast<double>(CountBranches(model, '*')) * model.heads() *
                           model.head_size() * static_cast<double>(sequence_length);
  const Mamba mamba = MambaOf(model);
  const double scan =
      static_cast<double>(CountBranches(model, 'M')) *
      (12.0 * static_cast<double>(mamba.inner) * static_cast<double>(mamba.state_size) +
       6.0 * static_cast<double>(mamba.channels) * static_cast<double>(mamba.conv_width));
  return 6 * weights + attention + scan;
}

double ForwardFlopsPerToken(const v1::ModelSpec& model, int64_t sequence_length) {
  const double fixed = FlopsPerToken(model, 0);
  const double whole = FlopsPerToken(model, sequence_length - 1);
  return (fixed + (whole - fixed) / 2) / 3;
}

MemoryEstimate EstimateMemory(const v1::JobSpec& spec, const v1::ResolvedPrecision& precision) {
  const v1::ModelSpec& model = spec.model();
  const int64_t parameters = CountParameters(model).value_or(0);
  const int64_t tokens =
      int64_t{spec.training().micro_batch_size()} * spec.training().sequence_length();
  const int64_t element = spec.precision().recipe() == "fp32" ? 4 : 2;
  const Mamba mamba = MambaOf(model);
  // A token's elements that forward keeps for backward: every branch's input and normed input, what
  // comes out of its first and goes into its second linear; and those of one branch's gradients.
  int64_t kept = 0, largest_gradient = 0;
  for (int i = 0; i < precision.linears_size(); i += 2) {
    const v1::LinearPrecision &in = precision.linears(i), &out = precision.linears(i + 1);
    const bool is_mamba = in.layer().find(".mamba.") != std::string::npos;
    const int64_t inside =
        in.out_features() + out.in_features() + (is_mamba ? mamba.channels + mamba.inner : 0);
    kept += 2 * int64_t{model.width()} + inside;
    largest_gradient = std::max(largest_gradient, inside);
  }
  MemoryEstimate memory;
  memory.weights = parameters * (element == 4 ? 4 : 6);
  memory.gradients = parameters * 4;
  memory.optimizer = parameters * 8;
  memory.activations = tokens * element * (kept + largest_gradient + 5 * int64_t{model.width()});
  return memory;
}

}  // namespace nibble::spec
