#include "worker/model/model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "worker/model/mamba_mixer.h"

namespace nibble::model {

using kernels::DType;
using kernels::Matrix;

absl::StatusOr<std::unique_ptr<Model>> Model::Create(const ModelOptions& options, Weights& weights,
                                                     kernels::Backend& backend) {
  NIBBLE_CHECK(options.precision.layers() ==
               static_cast<int64_t>(LinearsOf(options.config).size()));
  NIBBLE_CHECK(options.micro_batch_size > 0 && options.batch_size % options.micro_batch_size == 0);
  NIBBLE_CHECK(options.sequence_length > 0);
  NIBBLE_CHECK(!options.config.learned_positions() ||
               options.sequence_length <= options.config.max_positions);
  std::unique_ptr<Model> model(new Model(options, weights, backend));
  model->MakeBranches();
  NIBBLE_RETURN_IF_ERROR(model->AllocateArena());
  if (options.config.rotary()) model->FillRopeTable();
  NIBBLE_RETURN_IF_ERROR(backend.Synchronize());
  return model;
}

Model::Model(const ModelOptions& options, Weights& weights, kernels::Backend& backend)
    : options_(options),
      weights_(weights),
      table_(weights.table()),
      backend_(backend),
      context_{options_.config,
               weights,
               backend,
               options.fp32_activations ? DType::kF32 : DType::kBF16,
               options.micro_batch_size,
               options.sequence_length,
               {}},
      final_norm_(context_, table_.final_norm()) {}

void Model::MakeBranches() {
  const std::vector<NamedLinear> linears = LinearsOf(options_.config);
  const std::vector<Branch> branches = BranchesOf(options_.config);
  for (size_t b = 0; b < branches.size(); ++b) {
    const BranchParameters& parameters = table_.branches()[b];
    const auto projection = [&](size_t index, const LinearParameters& linear) {
      return Projection(
          context_,
          LinearLayer(backend_, static_cast<int>(index), options_.seed, linears[index].shape,
                      options_.precision, context_.high_precision()),
          linear);
    };
    Projection in = projection(2 * b, parameters.in);
    Projection out = projection(2 * b + 1, parameters.out);
    std::unique_ptr<Mixer> mixer;
    switch (branches[b].kind) {
      case BranchKind::kAttention:
        mixer = std::make_unique<AttentionMixer>(context_, std::move(in), std::move(out));
        break;
      case BranchKind::kMlp:
        mixer = std::make_unique<MlpMixer>(context_, std::move(in), std::move(out));
        break;
      case BranchKind::kMamba:
        mixer =
            std::make_unique<MambaMixer>(context_, std::move(in), std::move(out), parameters.mamba);
        break;
    }
    branches_.push_back({NormPart(context_, parameters.norm), std::move(mixer)});
  }
}

absl::Status Model::AllocateArena() {
  Arena count(nullptr);
  Plan(count);
  arena_bytes_ = count.used();
  NIBBLE_ASSIGN_OR_RETURN(memory_, backend_.Allocate(arena_bytes_));
  Arena arena(memory_->data());
  Plan(arena);
  NIBBLE_CHECK(arena.used() == arena_bytes_);
  return absl::OkStatus();
}

void Model::Plan(Arena& arena) {
  const int64_t n = context_.tokens();
  const int64_t width = options_.config.width;
  LinearWorkspaceBytes workspace;
  for (ResidualBranch& branch : branches_) {
    branch.norm.Plan(arena);
    branch.mixer->PlanKept(arena);
    for (Projection* projection : {&branch.mixer->in(), &branch.mixer->out()}) {
      projection->Plan(arena);
      const LinearWorkspaceBytes bytes =
          projection->layer().WorkspaceBytes(n, context_.activations);
      workspace.first = std::max(workspace.first, bytes.first);
      workspace.second = std::max(workspace.second, bytes.second);
    }
  }
  final_norm_.Plan(arena);
  context_.workspace.first = arena.Take(workspace.first);
  context_.workspace.second = arena.Take(workspace.second);
  head_storage_ = arena.Take(backend_.OperandBytes(context_.high_precision(), context_.activations,
                                                   options_.config.vocab_size, width));
  logits_storage_ =
      arena.Take(backend_.OperandBytes(context_.high_precision(), context_.activations, n, width));
  if (options_.config.rotary()) {
    rope_table_ = arena.TakeFloats(options_.sequence_length * options_.config.head_size);
    context_.rope_table = rope_table_;
  }
  delta_ = context_.TakeActivations(arena, width);
  d_residual_ = context_.TakeActivations(arena, width);
  d_normed_ = context_.TakeActivations(arena, width);
  PlanScratch(arena);
}

// One piece of memory as large as the largest mixer's; every mixer has its own view of it.
void Model::PlanScratch(Arena& arena) {
  int64_t bytes = 0;
  for (ResidualBranch& branch : branches_) {
    Arena count(nullptr);
    branch.mixer->PlanScratch(count);
    bytes = std::max(bytes, count.used());
  }
  void* scratch = arena.Take(bytes);
  for (ResidualBranch& branch : branches_) {
    Arena view(scratch);
    branch.mixer->PlanScratch(view);
  }
}

// angle(position, i) = position * theta^(-2 i / head_size).
void Model::FillRopeTable() {
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

void Model::PrepareWeights(PassKind pass, uint32_t step) {
  for (ResidualBranch& branch : branches_) {
    branch.mixer->in().PrepareWeights(pass, step);
    branch.mixer->out().PrepareWeights(pass, step);
  }
  kernels::OperandRequest request;
  request.source = weights_.MatrixOf(table_.head(), context_.activations);
  request.format = context_.high_precision();
  head_ = backend_.PrepareOperand(request, head_storage_);
}

TokenRange Model::RangeOf(const MicroBatch& batch) const {
  return TokenRange{batch.first_token, step_tokens(), batch.step, batch.probe};
}

void Model::ForwardBranches(const int32_t* inputs, const TokenRange& tokens) {
  Matrix residual = branches_.front().norm.input();
  Matrix delta;  // nothing is added before the first branch
  backend_.EmbeddingForward(inputs, weights_.MatrixOf(table_.embedding(), context_.activations),
                            residual);
  if (table_.positions() != kNone) {
    backend_.AddRows(residual, weights_.MasterOf(table_.positions()), options_.sequence_length);
  }
  for (ResidualBranch& branch : branches_) {
    branch.norm.Forward(residual, delta);
    branch.mixer->Forward(branch.norm.normed(), delta_, tokens);
    residual = branch.norm.input();
    delta = delta_;
  }
  final_norm_.Forward(residual, delta);
}

kernels::LmHeadArgs Model::HeadArgs(const MicroBatch& batch) const {
  kernels::LmHeadArgs head;
  head.x = final_norm_.normed();
  head.weight = head_;
  head.targets = batch.targets;
  head.losses = batch.losses;
  head.log_sum_exp = batch.log_sum_exp;
  head.logit_softcap = static_cast<float>(options_.loss.logit_softcap);
  return head;
}

void Model::Forward(const MicroBatch& batch) {
  ForwardBranches(batch.inputs, RangeOf(batch));
  backend_.LmHead(HeadArgs(batch));
}

void Model::Logits(const int32_t* inputs, const Matrix& logits) {
  NIBBLE_CHECK(logits.dtype == DType::kF32 && logits.rows == context_.tokens() &&
               logits.cols == options_.config.vocab_size);
  ForwardBranches(inputs, TokenRange{0, context_.tokens(), 0});
  kernels::OperandRequest request;
  request.source = final_norm_.normed();
  request.format = context_.high_precision();
  backend_.Multiply(backend_.PrepareOperand(request, logits_storage_), head_, logits,
                    /*accumulate=*/false);
}

void Model::ForwardBackward(const MicroBatch& batch) {
  ForwardBranches(batch.inputs, RangeOf(batch));
  if (batch.before_backward != nullptr) (*batch.before_backward)();
  Backward(batch);
}

// d_residual_ is the gradient of the residual stream: a sum passes its gradient on unchanged to
// what was added, so it is also the gradient of a mixer's output, and the norm's gradient is added
// to it.
void Model::Backward(const MicroBatch& batch) {
  const TokenRange tokens = RangeOf(batch);
  kernels::LmHeadArgs head = HeadArgs(batch);
  head.loss_scale = 1.0f / static_cast<float>(step_tokens());
  head.row_scales = batch.row_scales;
  head.z_loss = static_cast<float>(options_.loss.z_loss);
  head.d_x = d_normed_;
  head.d_weight = weights_.GradientOf(table_.head());
  backend_.LmHead(head);

  backend_.Zero(d_residual_.data, d_residual_.bytes());
  final_norm_.Backward(d_normed_, d_residual_);
  for (auto branch = branches_.rbegin(); branch != branches_.rend(); ++branch) {
    branch->mixer->Backward(d_residual_, branch->norm.normed(), d_normed_, tokens);
    branch->norm.Backward(d_normed_, d_residual_);
  }
  if (table_.positions() != kNone) {
    backend_.AddRowsBackward(d_residual_, weights_.GradientOf(table_.positions()),
                             options_.sequence_length);
  }
  const int embedding = table_.embedding();
  backend_.EmbeddingBackward(batch.inputs, d_residual_,
                             Matrix{weights_.GradientOf(embedding), DType::kF32,
                                    options_.config.vocab_size, options_.config.width});
}

}  // namespace nibble::model
