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
                         const PrecisionPolicy& precision, const OperandFormat& high_precision)
    : backend_(backend),
      index_(index),
      seed_(seed),
      shape_(shape),
      precision_(precision),
      high_precision_(high_precision),
      training_(&precision.FormatsOf(index, 0)) {}

void LinearLayer::Plan(Arena& arena) {
  const int64_t out = shape_.out_features, in = shape_.in_features;
  const auto bytes = [&](const OperandFormat& format, int64_t rows, int64_t cols) {
    return backend_.OperandBytes(format, SourceType(format), rows, cols);
  };
  // A pass of either kind uses the storage, never both at a time.
  weight_storage_ =
      arena.Take(std::max(precision_.Largest(index_,
                                             [&](const kernels::LinearFormat& format) {
                                               return bytes(format.fprop.second, out, in);
                                             }),
                          bytes(high_precision_, out, in)));
  transposed_storage_ =
      arena.Take(precision_.Largest(index_, [&](const kernels::LinearFormat& format) {
        // Of the source that the forward operand has.
        return backend_.OperandBytes(format.dgrad.second, SourceType(format.fprop.second), in, out);
      }));
}

LinearWorkspaceBytes LinearLayer::WorkspaceBytes(int64_t tokens, DType activations) const {
  const int64_t out = shape_.out_features, in = shape_.in_features;
  const auto bytes = [&](const OperandFormat& format, int64_t rows, int64_t cols) {
    return backend_.OperandBytes(format, activations, rows, cols);
  };
  LinearWorkspaceBytes result;
  result.first = precision_.Largest(index_, [&](const kernels::LinearFormat& format) {
    return std::max({bytes(format.fprop.first, tokens, in), bytes(high_precision_, tokens, in),
                     bytes(format.dgrad.first, tokens, out),
                     bytes(format.wgrad.first, out, tokens)});
  });
  result.second = precision_.Largest(index_, [&](const kernels::LinearFormat& format) {
    return bytes(format.wgrad.second, in, tokens);
  });
  return result;
}

StochasticKey LinearLayer::Key(TensorRole role, uint32_t step) const {
  StochasticKey key;
  key.seed = seed_;
  key.tensor_id = 4 * static_cast<uint32_t>(index_) + role;
  key.step = step;
  return key;
}

DType LinearLayer::WeightType(PassKind pass, uint32_t step) const {
  return SourceType(pass == PassKind::kTraining ? precision_.FormatsOf(index_, step).fprop.second
                                                : high_precision_);
}

void LinearLayer::PrepareWeights(const Matrix& weight, PassKind pass, uint32_t step) {
  NIBBLE_CHECK(weight.rows == shape_.out_features && weight.cols == shape_.in_features);
  pass_ = pass;
  training_ = &precision_.FormatsOf(index_, step);
  OperandRequest& request = weight_request_;
  request.source = weight;
  request.format = pass == PassKind::kTraining ? training_->fprop.second : high_precision_;
  request.key = Key(kWeight, step);
  request.key.total_cols = weight.cols;
  weight_ = backend_.PrepareOperand(request, weight_storage_);
  if (pass == PassKind::kEvaluation) return;
  transposed_request_ = request;
  transposed_request_.transpose = true;
  transposed_request_.format = training_->dgrad.second;
  transposed_request_.key.total_cols = weight.rows;
  if (training_->dgrad.second == training_->fprop.second && backend_.CanTranspose(weight_)) {
    transposed_ = backend_.Transposed(weight_);
    return;
  }
  transposed_ = backend_.PrepareOperand(transposed_request_, transposed_storage_);
}

void LinearLayer::Forward(const Matrix& x, const Matrix& y, const TokenRange& tokens,
                          const LinearWorkspace& workspace) {
  const bool training = pass_ == PassKind::kTraining;
  OperandRequest request;
  request.source = x;
  request.format = training ? training_->fprop.first : high_precision_;
  request.key = Key(kActivation, tokens.step);
  request.key.first_row = tokens.first_token;
  request.key.total_cols = x.cols;
  const Operand activation = backend_.PrepareOperand(request, workspace.first);
  backend_.Multiply(activation, weight_, y, /*accumulate=*/false);
  if (tokens.probe == nullptr || !training) return;
  tokens.probe->OnOperand(index_, OperandKind::kFpropActivation, request, activation);
  tokens.probe->OnOperand(index_, OperandKind::kFpropWeight, weight_request_, weight_);
}

void LinearLayer::Backward(const LinearBackwardArgs& args, const LinearWorkspace& workspace) {
  NIBBLE_CHECK(pass_ == PassKind::kTraining);
  LinearProbe* probe = args.tokens.probe;
  OperandRequest rows;
  rows.source = args.d_y;
  rows.format = training_->dgrad.first;
  rows.key = Key(kGradient, args.tokens.step);
  rows.key.first_row = args.tokens.first_token;
  rows.key.total_cols = args.d_y.cols;
  const Operand d_y_rows = backend_.PrepareOperand(rows, workspace.first);
  backend_.Multiply(d_y_rows, transposed_, args.d_x, /*accumulate=*/false);
  if (probe != nullptr) {
    probe->OnOperand(index_, OperandKind::kDgradGradient, rows, d_y_rows);
    probe->OnOperand(index_, OperandKind::kDgradWeight, transposed_request_, transposed_);
  }

  OperandRequest columns;
  columns.source = args.d_y;
  columns.transpose = true;
  columns.format = training_->wgrad.first;
  columns.key = Key(kGradientColumns, args.tokens.step);
  columns.key.first_col = args.tokens.first_token;
  columns.key.total_cols = args.tokens.total_tokens;
  const Operand d_y_columns = backend_.PrepareOperand(columns, workspace.first);
  OperandRequest x = columns;
  x.source = args.x;
  x.format = training_->wgrad.second;
  x.key.tensor_id = Key(kActivation, args.tokens.step).tensor_id;
  const Operand x_columns = backend_.PrepareOperand(x, workspace.second);
  backend_.Multiply(d_y_columns, x_columns,
                    Matrix{args.d_weight, DType::kF32, args.d_y.cols, args.x.cols},
                    /*accumulate=*/true);
  if (probe == nullptr) return;
  probe->OnOperand(index_, OperandKind::kWgradGradient, columns, d_y_columns);
  probe->OnOperand(index_, OperandKind::kWgradActivation, x, x_columns);
  probe->OnWeightGradient(index_, columns, d_y_columns, x, x_columns);
}

}  // namespace nibble::model
