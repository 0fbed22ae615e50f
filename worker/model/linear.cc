#include "worker/model/linear.h"

#include <algorithm>

#include "base/check.h"

namespace nibble::model {
namespace {

using kernels::DType;
using kernels::Matrix;
using kernels::Operand;
using kernels::OperandFormat;
using kernels::OperandRequest;
using kernels::StochasticKey;

DType SourceType(const OperandFormat& format) {
  return format.format == kernels::Format::kF32 ? DType::kF32 : DType::kBF16;
}

}  // namespace

LinearLayer::LinearLayer(kernels::Backend& backend, int index, uint64_t seed, LinearShape shape,
                         const kernels::LinearFormat& training, const OperandFormat& high_precision)
    : backend_(backend),
      index_(index),
      seed_(seed),
      shape_(shape),
      training_(training),
      high_precision_(high_precision) {}

void LinearLayer::Plan(Arena& arena) {
  const int64_t out = shape_.out_features, in = shape_.in_features;
  const auto bytes = [&](const OperandFormat& format, int64_t rows, int64_t cols) {
    return backend_.OperandBytes(format, SourceType(format), rows, cols);
  };
  // A pass of either kind uses the storage, never both at a time.
  weight_storage_ =
      arena.Take(std::max(bytes(training_.fprop.second, out, in), bytes(high_precision_, out, in)));
  transposed_storage_ = arena.Take(bytes(training_.dgrad.second, in, out));
}

LinearWorkspaceBytes LinearLayer::WorkspaceBytes(int64_t tokens, DType activations) const {
  const int64_t out = shape_.out_features, in = shape_.in_features;
  LinearWorkspaceBytes bytes;
  bytes.first = std::max({backend_.OperandBytes(training_.fprop.first, activations, tokens, in),
                          backend_.OperandBytes(high_precision_, activations, tokens, in),
                          backend_.OperandBytes(training_.dgrad.first, activations, tokens, out),
                          backend_.OperandBytes(training_.wgrad.first, activations, out, tokens)});
  bytes.second = backend_.OperandBytes(training_.wgrad.second, activations, in, tokens);
  return bytes;
}

StochasticKey LinearLayer::Key(TensorRole role, uint32_t step) const {
  StochasticKey key;
  key.seed = seed_;
  key.tensor_id = 4 * static_cast<uint32_t>(index_) + role;
  key.step = step;
  return key;
}

DType LinearLayer::WeightType(PassKind pass) const {
  return SourceType(pass == PassKind::kTraining ? training_.fprop.second : high_precision_);
}

void LinearLayer::PrepareWeights(const Matrix& weight, PassKind pass, uint32_t step) {
  NIBBLE_CHECK(weight.rows == shape_.out_features && weight.cols == shape_.in_features);
  pass_ = pass;
  OperandRequest request;
  request.source = weight;
  request.format = pass == PassKind::kTraining ? training_.fprop.second : high_precision_;
  request.key = Key(kWeight, step);
  request.key.total_cols = weight.cols;
  weight_ = backend_.PrepareOperand(request, weight_storage_);
  if (pass == PassKind::kEvaluation) return;
  if (training_.dgrad.second == training_.fprop.second && backend_.CanTranspose(weight_)) {
    transposed_ = backend_.Transposed(weight_);
    return;
  }
  request.transpose = true;
  request.format = training_.dgrad.second;
  request.key.total_cols = weight.rows;
  transposed_ = backend_.PrepareOperand(request, transposed_storage_);
}

void LinearLayer::Forward(const Matrix& x, const Matrix& y, const TokenRange& tokens,
                          const LinearWorkspace& workspace) {
  OperandRequest request;
  request.source = x;
  request.format = pass_ == PassKind::kTraining ? training_.fprop.first : high_precision_;
  request.key = Key(kActivation, tokens.step);
  request.key.first_row = tokens.first_token;
  request.key.total_cols = x.cols;
  backend_.Multiply(backend_.PrepareOperand(request, workspace.first), weight_, y,
                    /*accumulate=*/false);
}

void LinearLayer::Backward(const LinearBackwardArgs& args, const LinearWorkspace& workspace) {
  NIBBLE_CHECK(pass_ == PassKind::kTraining);
  OperandRequest rows;
  rows.source = args.d_y;
  rows.format = training_.dgrad.first;
  rows.key = Key(kGradient, args.tokens.step);
  rows.key.first_row = args.tokens.first_token;
  rows.key.total_cols = args.d_y.cols;
  backend_.Multiply(backend_.PrepareOperand(rows, workspace.first), transposed_, args.d_x,
                    /*accumulate=*/false);

  OperandRequest columns;
  columns.source = args.d_y;
  columns.transpose = true;
  columns.format = training_.wgrad.first;
  columns.key = Key(kGradientColumns, args.tokens.step);
  columns.key.first_col = args.tokens.first_token;
  columns.key.total_cols = args.tokens.total_tokens;
  const Operand d_y_columns = backend_.PrepareOperand(columns, workspace.first);
  columns.source = args.x;
  columns.format = training_.wgrad.second;
  columns.key.tensor_id = Key(kActivation, args.tokens.step).tensor_id;
  const Operand x_columns = backend_.PrepareOperand(columns, workspace.second);
  backend_.Multiply(d_y_columns, x_columns,
                    Matrix{args.d_weight, DType::kF32, args.d_y.cols, args.x.cols},
                    /*accumulate=*/true);
}

}  // namespace nibble::model
