#include "worker/model/llama.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/status_macros.h"

namespace nibble::model {
namespace {

using kernels::DType;
using kernels::Matrix;
using kernels::OperandFormat;

OperandFormat HighPrecision(DType activations) {
  OperandFormat format;
  format.format = activations == DType::kF32 ? kernels::Format::kF32 : kernels::Format::kBF16;
  return format;
}

DType WeightType(const OperandFormat& format) {
  return format.format == kernels::Format::kF32 ? DType::kF32 : DType::kBF16;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LlamaModel>> LlamaModel::Create(const LlamaOptions& options,
                                                               Weights& weights,
                                                               kernels::Backend& backend) {
  NIBBLE_CHECK(static_cast<int64_t>(options.linears.size()) == 4 * options.config.blocks);
  NIBBLE_CHECK(options.micro_batch_size > 0 && options.batch_size % options.micro_batch_size == 0);
  NIBBLE_CHECK(options.sequence_length > 0);
  std::unique_ptr<LlamaModel> model(new LlamaModel(options, weights, backend));
  model->MakeLinears();
  NIBBLE_RETURN_IF_ERROR(model->AllocateArena());
  model->FillRopeTable();
  NIBBLE_RETURN_IF_ERROR(backend.Synchronize());
  return model;
}

LlamaModel::LlamaModel(const LlamaOptions& options, Weights& weights, kernels::Backend& backend)
    : options_(options),
      weights_(weights),
      table_(weights.table()),
      backend_(backend),
      activations_(options.fp32_activations ? DType::kF32 : DType::kBF16),
      attention_{options.micro_batch_size, options.sequence_length, options.config.heads,
                 options.config.kv_heads, options.config.head_size},
      blocks_(options.config.blocks) {}

void LlamaModel::MakeLinears() {
  const LlamaConfig& config = options_.config;
  const OperandFormat high_precision = HighPrecision(activations_);
  linears_.reserve(config.blocks);
  for (int64_t i = 0; i < config.blocks; ++i) {
    const auto layer = [&](int which, int64_t in, int64_t out) {
      const int index = static_cast<int>(4 * i + which);
      return LinearLayer(backend_, index, options_.seed, LinearShape{in, out},
                         options_.linears[index], high_precision);
    };
    linears_.push_back({layer(0, config.width, config.qkv_width()),
                        layer(1, config.attention_width(), config.width),
                        layer(2, config.width, 2 * config.mlp_width),
                        layer(3, config.mlp_width, config.width)});
  }
}

absl::Status LlamaModel::AllocateArena() {
  Arena count(nullptr);
  Plan(count);
  arena_bytes_ = count.used();
  NIBBLE_ASSIGN_OR_RETURN(memory_, backend_.Allocate(arena_bytes_));
  Arena arena(memory_->data());
  Plan(arena);
  NIBBLE_CHECK(arena.used() == arena_bytes_);
  return absl::OkStatus();
}

void LlamaModel::PlanBlock(Arena& arena, BlockState& block) {
  const LlamaConfig& config = options_.config;
  const int64_t n = micro_batch_tokens();
  const auto matrix = [&](int64_t cols) { return arena.TakeMatrix(activations_, n, cols); };
  block.attention_input = matrix(config.width);
  block.attention_normed = matrix(config.width);
  block.attention_rms = arena.TakeFloats(n);
  block.qkv = matrix(config.qkv_width());
  block.attention_out = matrix(config.attention_width());
  block.log_sum_exp = arena.TakeFloats(n * config.heads);
  block.mlp_input = matrix(config.width);
  block.mlp_normed = matrix(config.width);
  block.mlp_rms = arena.TakeFloats(n);
  block.gate_up = matrix(2 * config.mlp_width);
  block.activated = matrix(config.mlp_width);
}

void LlamaModel::Plan(Arena& arena) {
  const LlamaConfig& config = options_.config;
  const int64_t n = micro_batch_tokens();
  const auto matrix = [&](int64_t cols) { return arena.TakeMatrix(activations_, n, cols); };
  LinearWorkspaceBytes workspace;
  for (BlockLinears& block : linears_) {
    for (LinearLayer* layer : {&block.qkv, &block.output, &block.gate_up, &block.down}) {
      layer->Plan(arena);
      const LinearWorkspaceBytes bytes = layer->WorkspaceBytes(n, activations_);
      workspace.first = std::max(workspace.first, bytes.first);
      workspace.second = std::max(workspace.second, bytes.second);
    }
  }
  workspace_.first = arena.Take(workspace.first);
  workspace_.second = arena.Take(workspace.second);
  head_storage_ = arena.Take(backend_.OperandBytes(HighPrecision(activations_), activations_,
                                                   config.vocab_size, config.width));
  rope_table_ = arena.TakeFloats(options_.sequence_length * config.head_size);
  for (BlockState& block : blocks_) PlanBlock(arena, block);
  delta_ = matrix(config.width);
  final_input_ = matrix(config.width);
  final_normed_ = matrix(config.width);
  final_rms_ = arena.TakeFloats(n);
  d_residual_ = matrix(config.width);
  d_normed_ = matrix(config.width);
  d_qkv_ = matrix(config.qkv_width());
  d_attention_out_ = matrix(config.attention_width());
  d_gate_up_ = matrix(2 * config.mlp_width);
  d_activated_ = matrix(config.mlp_width);
}

// angle(position, i) = position * theta^(-2 i / head_size).
void LlamaModel::FillRopeTable() {
  const int64_t half = options_.config.head_size / 2;
  std::vector<float> table(options_.sequence_length * half * 2);
  for (int64_t position = 0; position < options_.sequence_length; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const double frequency =
          std::pow(options_.config.rope_theta, -static_cast<double>(i) / static_cast<double>(half));
      const double angle = static_cast<double>(position) * frequency;
      table[(position * half + i) * 2] = static_cast<float>(std::cos(angle));
      table[(position * half + i) * 2 + 1] = static_cast<float>(std::sin(angle));
    }
  }
  backend_.CopyToDevice(rope_table_, table.data(), static_cast<int64_t>(table.size()) * 4);
}

void LlamaModel::PrepareWeights(PassKind pass, uint32_t step) {
  const OperandFormat high_precision = HighPrecision(activations_);
  for (int64_t i = 0; i < options_.config.blocks; ++i) {
    const BlockParameters& parameters = table_.block(i);
    const auto prepare = [&](LinearLayer& layer, int which, int parameter) {
      const OperandFormat& format = pass == PassKind::kTraining
                                        ? options_.linears[4 * i + which].fprop.second
                                        : high_precision;
      layer.PrepareWeights(weights_.MatrixOf(parameter, WeightType(format)), pass, step);
    };
    prepare(linears_[i].qkv, 0, parameters.qkv);
    prepare(linears_[i].output, 1, parameters.output);
    prepare(linears_[i].gate_up, 2, parameters.gate_up);
    prepare(linears_[i].down, 3, parameters.down);
  }
  kernels::OperandRequest request;
  request.source = weights_.MatrixOf(table_.head(), activations_);
  request.format = high_precision;
  head_ = backend_.PrepareOperand(request, head_storage_);
}

TokenRange LlamaModel::RangeOf(const MicroBatch& batch) const {
  return TokenRange{batch.first_token, step_tokens(), batch.step};
}

void LlamaModel::Norm(const Matrix& residual, const Matrix& delta, const Matrix& residual_out,
                      int weight, const Matrix& normed, float* reciprocal_rms) {
  kernels::RmsNormArgs args;
  args.residual = residual;
  args.delta = delta;
  args.residual_out = residual_out;
  args.weight = weights_.MasterOf(weight);
  args.normed = normed;
  args.reciprocal_rms = reciprocal_rms;
  args.epsilon = static_cast<float>(options_.config.norm_epsilon);
  backend_.RmsNormForward(args);
}

// From d_normed_ into d_residual_.
void LlamaModel::NormBackward(const Matrix& input, int weight, const float* reciprocal_rms) {
  kernels::RmsNormBackwardArgs args;
  args.d_normed = d_normed_;
  args.input = input;
  args.weight = weights_.MasterOf(weight);
  args.reciprocal_rms = reciprocal_rms;
  args.d_input = d_residual_;
  args.d_weight = weights_.GradientOf(weight);
  backend_.RmsNormBackward(args);
}

void LlamaModel::ForwardBlock(int64_t index, const TokenRange& tokens) {
  BlockState& block = blocks_[index];
  BlockLinears& linears = linears_[index];
  const BlockParameters& parameters = table_.block(index);
  if (index == 0) {  // the embedding wrote attention_input; nothing is added yet
    Norm(block.attention_input, Matrix{}, block.attention_input, parameters.attention_norm,
         block.attention_normed, block.attention_rms);
  } else {
    Norm(blocks_[index - 1].mlp_input, delta_, block.attention_input, parameters.attention_norm,
         block.attention_normed, block.attention_rms);
  }
  linears.qkv.Forward(block.attention_normed, block.qkv, tokens, workspace_);
  backend_.Rope({attention_, block.qkv, rope_table_, /*inverse=*/false});
  backend_.AttentionForward({attention_, block.qkv, block.attention_out, block.log_sum_exp});
  linears.output.Forward(block.attention_out, delta_, tokens, workspace_);
  Norm(block.attention_input, delta_, block.mlp_input, parameters.mlp_norm, block.mlp_normed,
       block.mlp_rms);
  linears.gate_up.Forward(block.mlp_normed, block.gate_up, tokens, workspace_);
  backend_.SwiGluForward(block.gate_up, block.activated);
  linears.down.Forward(block.activated, delta_, tokens, workspace_);
}

void LlamaModel::ForwardBlocks(const MicroBatch& batch) {
  const TokenRange tokens = RangeOf(batch);
  backend_.EmbeddingForward(batch.inputs, weights_.MatrixOf(table_.embedding(), activations_),
                            blocks_[0].attention_input);
  for (int64_t i = 0; i < options_.config.blocks; ++i) ForwardBlock(i, tokens);
  Norm(blocks_.back().mlp_input, delta_, final_input_, table_.final_norm(), final_normed_,
       final_rms_);
}

void LlamaModel::Forward(const MicroBatch& batch) {
  ForwardBlocks(batch);
  kernels::LmHeadArgs head;
  head.x = final_normed_;
  head.weight = head_;
  head.targets = batch.targets;
  head.losses = batch.losses;
  backend_.LmHead(head);
}

void LlamaModel::ForwardBackward(const MicroBatch& batch) {
  ForwardBlocks(batch);
  kernels::LmHeadArgs head;
  head.x = final_normed_;
  head.weight = head_;
  head.targets = batch.targets;
  head.losses = batch.losses;
  head.loss_scale = 1.0f / static_cast<float>(step_tokens());
  head.d_x = d_normed_;
  head.d_weight = weights_.GradientOf(table_.head());
  backend_.LmHead(head);

  backend_.Zero(d_residual_.data, d_residual_.bytes());
  NormBackward(final_input_, table_.final_norm(), final_rms_);
  const TokenRange tokens = RangeOf(batch);
  for (int64_t i = options_.config.blocks - 1; i >= 0; --i) BackwardBlock(i, tokens);
  const int embedding = table_.embedding();
  backend_.EmbeddingBackward(batch.inputs, d_residual_,
                             Matrix{weights_.GradientOf(embedding), DType::kF32,
                                    options_.config.vocab_size, options_.config.width});
}

// On entry d_residual_ is the gradient of the block's output, on return that of its input: a sum
// passes its gradient on unchanged to what was added, so d_residual_ is also the gradient of the
// output projections.
void LlamaModel::BackwardBlock(int64_t index, const TokenRange& tokens) {
  BackwardMlp(index, tokens);
  BackwardAttention(index, tokens);
}

void LlamaModel::BackwardMlp(int64_t index, const TokenRange& tokens) {
  const BlockState& block = blocks_[index];
  const BlockParameters& parameters = table_.block(index);
  linears_[index].down.Backward(
      {d_residual_, block.activated, d_activated_, weights_.GradientOf(parameters.down), tokens},
      workspace_);
  backend_.SwiGluBackward(d_activated_, block.gate_up, d_gate_up_);
  linears_[index].gate_up.Backward(
      {d_gate_up_, block.mlp_normed, d_normed_, weights_.GradientOf(parameters.gate_up), tokens},
      workspace_);
  NormBackward(block.mlp_input, parameters.mlp_norm, block.mlp_rms);
}

void LlamaModel::BackwardAttention(int64_t index, const TokenRange& tokens) {
  const BlockState& block = blocks_[index];
  const BlockParameters& parameters = table_.block(index);
  linears_[index].output.Backward({d_residual_, block.attention_out, d_attention_out_,
                                   weights_.GradientOf(parameters.output), tokens},
                                  workspace_);
  kernels::AttentionBackwardArgs attention;
  attention.shape = attention_;
  attention.d_out = d_attention_out_;
  attention.qkv = block.qkv;
  attention.out = block.attention_out;
  attention.log_sum_exp = block.log_sum_exp;
  attention.d_qkv = d_qkv_;
  backend_.AttentionBackward(attention);
  backend_.Rope({attention_, d_qkv_, rope_table_, /*inverse=*/true});
  linears_[index].qkv.Backward(
      {d_qkv_, block.attention_normed, d_normed_, weights_.GradientOf(parameters.qkv), tokens},
      workspace_);
  NormBackward(block.attention_input, parameters.attention_norm, block.attention_rms);
}

}  // namespace nibble::model
