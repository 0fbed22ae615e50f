#include "proto/spec/model_size.h"

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

}  // namespace

std::vector<LinearShape> LinearsOf(const v1::ModelSpec& model) {
  const int64_t width = model.width();
  const int64_t attention = int64_t{model.heads()} * model.head_size();
  const int64_t kv = int64_t{model.kv_heads()} * model.head_size();
  const int64_t mlp = model.mlp_width();
  std::vector<LinearShape> linears;
  for (int block = 0; block < model.blocks(); ++block) {
    linears.push_back({"attention.qkv", block, width, attention + 2 * kv});
    linears.push_back({"attention.output", block, attention, width});
    linears.push_back({"mlp.gate_up", block, width, 2 * mlp});
    linears.push_back({"mlp.down", block, mlp, width});
  }
  return linears;
}

std::optional<int64_t> CountParameters(const v1::ModelSpec& model) {
  CheckedSum total;
  for (const LinearShape& linear : LinearsOf(model)) {
    total.Add(linear.in_features, linear.out_features);
  }
  total.Add(2 * int64_t{model.blocks()} + 1, model.width());
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
  const double attention = 12.0 * model.blocks() * model.heads() * model.head_size() *
                           static_cast<double>(sequence_length);
  return 6 * weights + attention;
}

}  // namespace nibble::spec
