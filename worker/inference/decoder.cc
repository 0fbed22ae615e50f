#include "worker/inference/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/model/parts.h"

namespace nibble::inference {
namespace {

using kernels::DType;
using kernels::Matrix;

// Rows [first, first + count) of a matrix.
Matrix Rows(const Matrix& matrix, int64_t first, int64_t count) {
  char* data = static_cast<char*>(matrix.data) + first * matrix.cols * SizeOf(matrix.dtype);
  return Matrix{data, matrix.dtype, count, matrix.cols};
}

kernels::OperandFormat FormatOf(DType type) {
  kernels::OperandFormat format;
  format.format = type == DType::kF32 ? kernels::Format::kF32 : kernels::Format::kBF16;
  return format;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(const model::ModelConfig& config,
                                                         const model::Weights& weights,
                                                         const DecoderOptions& options,
                                                         kernels::Backend& backend) {
  NIBBLE_CHECK(options.capacity > 0 && options.chunk > 0);
  if (config.learned_positions() && options.capacity > config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("a sequence of ", options.capacity,
                                                   " tokens; the model has ", config.max_positions,
                                                   " positions"));
  }
  std::unique_ptr<Decoder> decoder(new Decoder(config, weights, options, backend));
  NIBBLE_RETURN_IF_ERROR(decoder->Allocate());
  if (config.rotary()) decoder->FillRopeTable();
  NIBBLE_RETURN_IF_ERROR(backend.Synchronize());
  return decoder;
}

Decoder::Decoder(const model::ModelConfig& config, const model::Weights& weights,
                 const DecoderOptions& options, kernels::Backend& backend)
    : config_(config),
      weights_(weights),
      table_(weights.table()),
      options_(options),
      backend_(backend),
      type_(options.precision == Precision::kF32 ? DType::kF32 : DType::kBF16),
      kinds_(model::BranchesOf(config)),
      branches_(kinds_.size()),
      has_mamba_(std::any_of(kinds_.begin(), kinds_.end(), [](const model::Branch& branch) {
        return branch.kind == model::BranchKind::kMamba;
      })) {}

absl::Status Decoder::Allocate() {
  model::Arena count(nullptr);
  Plan(count);
  NIBBLE_ASSIGN_OR_RETURN(memory_, backend_.Allocate(count.used()));
  model::Arena arena(memory_->data());
  Plan(arena);
  RefreshWeights();
  return absl::OkStatus();
}

void Decoder::Plan(model::Arena& arena) {
  const int64_t chunk = options_.chunk;
  const auto matrix = [&](int64_t cols) { return arena.TakeMatrix(type_, chunk, cols); };
  model::LinearParameters head;
  head.weight = table_.head();
  PlanWeight(arena, head, &head_);
  int64_t widest = config_.width;
  for (size_t i = 0; i < branches_.size(); ++i) {
    PlanWeight(arena, table_.branches()[i].in, &branches_[i].in);
    PlanWeight(arena, table_.branches()[i].out, &branches_[i].out);
    widest = std::max(widest, table_[branches_[i].out.parameter].shape[1]);
    if (kinds_[i].kind == model::BranchKind::kAttention) {
      branches_[i].cache = arena.TakeMatrix(type_, options_.capacity, config_.qkv_width());
    } else if (kinds_[i].kind == model::BranchKind::kMamba) {
      PlanMamba(arena, &branches_[i]);
    }
  }
  if (has_mamba_) {
    const kernels::MambaShape shape = MambaShapeOf(chunk);
    xbc_ = arena.TakeMatrix(type_, shape.conv_width - 1 + chunk, shape.channels());
    scanned_ = matrix(shape.inner());
    gated_ = matrix(shape.inner());
    reciprocal_rms_ = arena.TakeFloats(chunk * shape.groups);
  }
  workspace_ = arena.Take(backend_.OperandBytes(FormatOf(type_), type_, chunk, widest));
  if (config_.rotary()) {
    rope_table_ = arena.TakeFloats(options_.capacity * config_.head_size);
  }
  tokens_ = static_cast<int32_t*>(arena.Take(chunk * 4));
  residual_ = matrix(config_.width);
  delta_ = matrix(config_.width);
  normed_ = matrix(config_.width);
  attended_ = matrix(config_.attention_width());
  projected_ = matrix(config_.mlp_in_width());
  activated_ = matrix(config_.mlp_width);
  logits_ = arena.TakeMatrix(DType::kF32, chunk, config_.vocab_size);
  mean_ = arena.TakeFloats(chunk);
  reciprocal_ = arena.TakeFloats(chunk);
  log_sum_exp_ = arena.TakeFloats(chunk * config_.heads);
}

void Decoder::PlanMamba(model::Arena& arena, Branch* branch) {
  const kernels::MambaShape shape = MambaShapeOf(options_.chunk);
  const int64_t history = shape.conv_width - 1;
  const int64_t state = shape.heads * shape.head_size * shape.state_size;
  branch->projected = arena.TakeMatrix(type_, history + options_.chunk, shape.projected_width());
  branch->state = arena.TakeFloats(state);
  branch->saved_rows = arena.Take(history * shape.projected_width() * SizeOf(type_));
  branch->saved_state = arena.TakeFloats(state);
}

kernels::MambaShape Decoder::MambaShapeOf(int64_t count) const {
  const model::MambaConfig& mamba = config_.mamba;
  return {1,
          count,
          mamba.heads,
          mamba.head_size,
          mamba.groups,
          mamba.state_size,
          mamba.conv_width,
          mamba.chunk_size};
}

void Decoder::PlanWeight(model::Arena& arena, const model::LinearParameters& parameters,
                         Weight* weight) {
  const Matrix source = weights_.MatrixOf(parameters.weight, type_);
  weight->parameter = parameters.weight;
  weight->bias = parameters.bias;
  weight->storage =
      arena.Take(backend_.OperandBytes(FormatOf(type_), type_, source.rows, source.cols));
}

void Decoder::Prepare(Weight* weight) {
  kernels::OperandRequest request;
  request.source = weights_.MatrixOf(weight->parameter, type_);
  request.format = FormatOf(type_);
  weight->operand = backend_.PrepareOperand(request, weight->storage);
}

void Decoder::RefreshWeights() {
  for (Branch& branch : branches_) {
    Prepare(&branch.in);
    Prepare(&branch.out);
  }
  Prepare(&head_);
  ForgetStates();
}

void Decoder::ForgetStates() {
  length_ = saved_length_ = 0;
  held_.clear();
  if (!has_mamba_) return;
  const kernels::MambaShape shape = MambaShapeOf(1);
  for (const Branch& branch : branches_) {
    if (branch.state == nullptr) continue;
    backend_.Zero(branch.state, shape.inner() * shape.state_size * 4);
    backend_.Zero(branch.projected.data, Rows(branch.projected, 0, shape.conv_width - 1).bytes());
  }
  CopyStates(Saved::kSave);
}

void Decoder::CopyStates(Saved direction) {
  const kernels::MambaShape shape = MambaShapeOf(1);
  const auto copy = [&](void* now, void* saved, int64_t bytes) {
    if (direction == Saved::kSave) {
      backend_.CopyOnDevice(saved, now, bytes);
    } else {
      backend_.CopyOnDevice(now, saved, bytes);
    }
  };
  for (const Branch& branch : branches_) {
    if (branch.state == nullptr) continue;
    copy(branch.state, branch.saved_state, shape.inner() * shape.state_size * 4);
    copy(branch.projected.data, branch.saved_rows,
         Rows(branch.projected, 0, shape.conv_width - 1).bytes());
  }
}

// angle(position, i) = position * theta^(-2 i / head_size), as in training.
void Decoder::FillRopeTable() {
  const int64_t half = config_.head_size / 2;
  std::vector<float> table(options_.capacity * half * 2);
  for (int64_t i = 0; i < half; ++i) {
    const double frequency =
        std::pow(config_.rope_theta, -static_cast<double>(i) / static_cast<double>(half));
    for (int64_t position = 0; position < options_.capacity; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      table[(position * half + i) * 2] = static_cast<float>(std::cos(angle));
      table[(position * half + i) * 2 + 1] = static_cast<float>(std::sin(angle));
    }
  }
  backend_.CopyToDevice(rope_table_, table.data(), static_cast<int64_t>(table.size()) * 4);
}

void Decoder::Truncate(int64_t length) {
  NIBBLE_CHECK(0 <= length && length <= length_);
  if (!has_mamba_ || length == length_) {
    length_ = length;
    return;
  }
  held_.resize(length);
  if (length == saved_length_) {
    CopyStates(Saved::kRestore);
    length_ = length;
    return;
  }
  const std::vector<int32_t> kept = std::move(held_);
  ForgetStates();
  for (int64_t first = 0; first < length; first += options_.chunk) {
    Pass(kept.data() + first, std::min(options_.chunk, length - first));
  }
  held_ = kept;
  CopyStates(Saved::kSave);
  saved_length_ = length;
}

absl::Status Decoder::Append(const int32_t* tokens, int64_t count, int64_t logit_rows,
                             float* logits) {
  NIBBLE_CHECK(0 <= logit_rows && logit_rows <= count);
  if (count > options_.capacity - length_) {
    return absl::OutOfRangeError(absl::StrCat("a sequence of ", length_, " and ", count,
                                              " more tokens; at most ", options_.capacity));
  }
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || tokens[i] >= config_.vocab_size) {
      return absl::OutOfRangeError(
          absl::StrCat("token ", tokens[i], " is not in a vocabulary of ", config_.vocab_size));
    }
  }
  if (has_mamba_) {
    CopyStates(Saved::kSave);
    saved_length_ = length_;
    held_.insert(held_.end(), tokens, tokens + count);
  }
  float* const all_logits = logits;
  for (int64_t first = 0; first < count; first += options_.chunk) {
    const int64_t rows = std::min(options_.chunk, count - first);
    Pass(tokens + first, rows);
    // Of this pass, the last `wanted` rows.
    const int64_t wanted = std::clamp<int64_t>(first + rows - (count - logit_rows), 0, rows);
    if (wanted == 0) continue;
    Norm(Rows(delta_, rows - wanted, wanted), table_.final_norm(), rows - wanted, wanted);
    const Matrix out = Rows(logits_, 0, wanted);
    Multiply(Rows(normed_, 0, wanted), head_, out);
    backend_.CopyToHost(logits, out.data, out.bytes());
    logits += wanted * config_.vocab_size;
  }
  NIBBLE_RETURN_IF_ERROR(backend_.Synchronize());
  model::SoftCap(options_.logit_softcap, all_logits, logit_rows * config_.vocab_size);
  return absl::OkStatus();
}

// normed_[0, count) of residual_ (to which `delta` is added first) from `first_row` on.
void Decoder::Norm(const Matrix& delta, const model::NormParameters& norm, int64_t first_row,
                   int64_t count) {
  const Matrix residual = Rows(residual_, first_row, count), normed = Rows(normed_, 0, count);
  const float* weight = weights_.MasterOf(norm.weight);
  const float epsilon = static_cast<float>(config_.norm_epsilon);
  if (config_.layer_norm()) {
    backend_.LayerNormForward({residual, delta, residual, weight, weights_.MasterOf(norm.bias),
                               normed, mean_, reciprocal_, epsilon});
  } else {
    backend_.RmsNormForward({residual, delta, residual, weight, normed, reciprocal_, epsilon});
  }
}

void Decoder::Multiply(const Matrix& x, const Weight& weight, const Matrix& y) {
  kernels::OperandRequest request;
  request.source = x;
  request.format = FormatOf(type_);
  backend_.Multiply(backend_.PrepareOperand(request, workspace_), weight.operand, y,
                    /*accumulate=*/false);
  if (weight.bias != model::kNone) backend_.AddRows(y, weights_.MasterOf(weight.bias), 1);
}

// Leaves in residual_ and delta_ what the final norm adds up.
void Decoder::Pass(const int32_t* tokens, int64_t count) {
  backend_.CopyToDevice(tokens_, tokens, count * 4);
  backend_.EmbeddingForward(tokens_, weights_.MatrixOf(table_.embedding(), type_),
                            Rows(residual_, 0, count));
  if (config_.learned_positions()) {
    const float* positions = weights_.MasterOf(table_.positions()) + length_ * config_.width;
    backend_.AddRows(Rows(residual_, 0, count), positions, /*period=*/count);
  }
  for (size_t i = 0; i < branches_.size(); ++i) ForwardBranch(i, count);
  length_ += count;
}

void Decoder::ForwardBranch(size_t index, int64_t count) {
  const Matrix delta = Rows(delta_, 0, count);
  Norm(index == 0 ? Matrix{} : delta, table_.branches()[index].norm, 0, count);
  switch (kinds_[index].kind) {
    case model::BranchKind::kAttention:
      return Attend(branches_[index], count, delta);
    case model::BranchKind::kMlp:
      return ForwardMlp(branches_[index], count, delta);
    case model::BranchKind::kMamba:
      return ForwardMamba(branches_[index], table_.branches()[index].mamba, count, delta);
  }
}

void Decoder::Attend(const Branch& branch, int64_t count, const Matrix& y) {
  kernels::AttentionShape shape{1, count, config_.heads, config_.kv_heads, config_.head_size};
  const Matrix projected = Rows(branch.cache, length_, count);
  Multiply(Rows(normed_, 0, count), branch.in, projected);
  if (config_.rotary()) {
    backend_.Rope({shape, projected, rope_table_ + length_ * config_.head_size, /*inverse=*/false});
  }
  shape.sequence_length = length_ + count;
  const Matrix attended = Rows(attended_, 0, count);
  backend_.AttentionForward({shape, Rows(branch.cache, 0, length_ + count), attended, log_sum_exp_,
                             /*first_query=*/length_});
  Multiply(attended, branch.out, y);
}

void Decoder::ForwardMamba(const Branch& branch, const model::MambaParameters& parameters,
                           int64_t count, const Matrix& y) {
  const int64_t history = config_.mamba.conv_width - 1;
  const Matrix projected = Rows(branch.projected, history, count);
  const Matrix xbc = Rows(xbc_, history, count);
  const Matrix scanned = Rows(scanned_, 0, count), gated = Rows(gated_, 0, count);
  Multiply(Rows(normed_, 0, count), branch.in, projected);
  // Over the rows before as well, whose own results nobody reads. (Before a sequence they are
  // zero.)
  backend_.CausalConvForward(
      {MambaShapeOf(history + count), Rows(branch.projected, 0, history + count),
       weights_.MasterOf(parameters.conv_weight), weights_.MasterOf(parameters.conv_bias),
       Rows(xbc_, 0, history + count)});
  const kernels::MambaShape shape = MambaShapeOf(count);
  backend_.ScanForward({shape, xbc, projected, weights_.MasterOf(parameters.dt_bias),
                        weights_.MasterOf(parameters.a_log), weights_.MasterOf(parameters.d),
                        scanned, branch.state});
  backend_.GatedNormForward({shape, scanned, projected, weights_.MasterOf(parameters.norm), gated,
                             reciprocal_rms_, static_cast<float>(config_.norm_epsilon)});
  Multiply(gated, branch.out, y);
  for (int64_t row = 0; row < history; ++row) {
    const Matrix from = Rows(branch.projected, count + row, 1);
    backend_.CopyOnDevice(Rows(branch.projected, row, 1).data, from.data, from.bytes());
  }
}

void Decoder::ForwardMlp(const Branch& branch, int64_t count, const Matrix& y) {
  const Matrix projected = Rows(projected_, 0, count), activated = Rows(activated_, 0, count);
  Multiply(Rows(normed_, 0, count), branch.in, projected);
  if (config_.gated()) {
    backend_.SwiGluForward(projected, activated);
  } else {
    backend_.ActivationForward(model::PlainActivation(config_.activation), projected, activated);
  }
  Multiply(activated, branch.out, y);
}

}  // namespace nibble::inference
