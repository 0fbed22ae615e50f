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

BlockShapes LlamaBlockShapes(const v1::ModelSpec& model) {
  const int64_t width = model.width();
  const int64_t attention = int64_t{model.heads()} * model.head_size();
  const int64_t kv = int64_t{model.kv_heads()} * model.head_size();
  const int64_t mlp = model.mlp_width();
  return {{{"attention.qkv", width, attention + 2 * kv},
           {"attention.output", attention, width},
           {"mlp.gate_up", width, 2 * mlp},
           {"mlp.down", mlp, width}}};
}

std::optional<int64_t> LlamaParameters(const v1::ModelSpec& model) {
  CheckedSum block;
  for (const LinearShape& linear : LlamaBlockShapes(model).linears) {
    block.Add(linear.in_features, linear.out_features);
  }
  block.Add(2, model.width());
  if (!block.value().has_value()) return std::nullopt;
  CheckedSum total;
  total.Add(model.blocks(), *block.value());
  total.Add(int64_t{model.vocab_size()} * (model.tied_embeddings() ? 1 : 2), model.width());
  total.Add(1, model.width());
  const std::optional<int64_t> parameters = total.value();
  if (!parameters.has_value() || *parameters > kMaxParameters) return std::nullopt;
  return parameters;
}

double LlamaFlopsPerToken(const v1::ModelSpec& model, int64_t sequence_length) {
  double weights = static_cast<double>(model.vocab_size()) * model.width();
  for (const LinearShape& linear : LlamaBlockShapes(model).linears) {
    weights += static_cast<double>(model.blocks()) * static_cast<double>(linear.in_features) *
               static_cast<double>(linear.out_features);
  }
  const double attention = 12.0 * model.blocks() * model.heads() * model.head_size() *
                           static_cast<double>(sequence_length);
  return 6 * weights + attention;
}

}  // namespace nibble::spec
