#include "worker/optimizer/low_rank_adamw.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/optimizer/subspace.h"

namespace nibble::optimizer {
namespace {

using kernels::DType;
using kernels::Matrix;
using kernels::Operand;

constexpr int kIterations = 6;
// Elements that Decay takes at a time.
constexpr int64_t kDecayElements = int64_t{1} << 18;

Matrix F32(float* data, int64_t rows, int64_t cols) { return {data, DType::kF32, rows, cols}; }

// FP32 operands are views of their source.
Operand View(kernels::Backend& backend, const Matrix& source) {
  kernels::OperandRequest request;
  request.source = source;
  request.format.format = kernels::Format::kF32;
  NIBBLE_CHECK(backend.OperandBytes(request.format, DType::kF32, source.rows, source.cols) == 0);
  return backend.PrepareOperand(request, nullptr);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LowRankAdamW>> LowRankAdamW::Create(const AdamWConfig& config,
                                                                   uint64_t seed,
                                                                   const FlatParameters& parameters,
                                                                   kernels::Backend& backend) {
  NIBBLE_CHECK(config.low_rank.rank > 0 && config.low_rank.update_interval > 0);
  std::unique_ptr<LowRankAdamW> optimizer(new LowRankAdamW(config, seed, parameters, backend));
  NIBBLE_RETURN_IF_ERROR(optimizer->AllocateState());
  return optimizer;
}

absl::Status LowRankAdamW::AllocateState() {
  const model::ParameterTable& table = *parameters_.table;
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<DecayRange> ranges, DecayRanges(config_, table));
  const int64_t rank = config_.low_rank.rank;
  int64_t elements = 0, longest = 0;
  for (size_t i = 0; i < table.parameters().size(); ++i) {
    const model::Parameter& parameter = table.parameters()[i];
    Slot& slot = slots_.emplace_back();
    slot.parameter = static_cast<int>(i);
    for (const DecayRange& range : ranges) {
      if (range.first <= parameter.offset && parameter.offset < range.first + range.size) {
        slot.decay = range.decay;
      }
    }
    int64_t moment = parameter.size;
    if (parameter.kind == model::ParameterKind::kLinear && parameter.shape.size() == 2) {
      slot.transposed = parameter.shape[1] > parameter.shape[0];
      slot.longer = std::max(parameter.shape[0], parameter.shape[1]);
      slot.shorter = std::min(parameter.shape[0], parameter.shape[1]);
      slot.projected = slot.shorter > rank;
    }
    if (slot.projected) {
      moment = slot.longer * rank;
      longest = std::max(longest, slot.longer);
      elements += slot.shorter * rank;
    }
    elements += 2 * moment;
  }
  state_bytes_ = elements * 4;
  NIBBLE_ASSIGN_OR_RETURN(state_, backend_.Allocate(state_bytes_));
  float* at = static_cast<float*>(state_->data());
  for (Slot& slot : slots_) {
    const int64_t moment =
        slot.projected ? slot.longer * rank : table.parameters()[slot.parameter].size;
    slot.first_moment = at;
    slot.second_moment = at + moment;
    at += 2 * moment;
    if (slot.projected) {
      slot.projector = at;
      at += slot.shorter * rank;
    }
  }
  NIBBLE_ASSIGN_OR_RETURN(norm_, backend_.Allocate(4));
  NIBBLE_ASSIGN_OR_RETURN(projected_, backend_.Allocate(longest * rank * 4));
  NIBBLE_ASSIGN_OR_RETURN(update_, backend_.Allocate(longest * rank * 4));
  NIBBLE_ASSIGN_OR_RETURN(zeros_, backend_.Allocate(3 * kDecayElements * 4));
  host_.resize(longest * rank);
  return absl::OkStatus();
}

float* LowRankAdamW::Gradient(const Slot& slot) const {
  return const_cast<float*>(parameters_.gradients) + (*parameters_.table)[slot.parameter].offset;
}

float* LowRankAdamW::Master(const Slot& slot) const {
  return parameters_.master + (*parameters_.table)[slot.parameter].offset;
}

kernels::AdamWArgs LowRankAdamW::Args(const Slot& slot, int64_t step) const {
  kernels::AdamWArgs args;
  args.first_moment = slot.first_moment;
  args.second_moment = slot.second_moment;
  args.bf16_parameters = nullptr;
  args.gradient_norm = gradient_norm();
  args.max_gradient_norm = static_cast<float>(config_.gradient_clip);
  args.beta1 = static_cast<float>(config_.beta1);
  args.beta2 = static_cast<float>(config_.beta2);
  args.epsilon = static_cast<float>(config_.epsilon);
  args.step = step;
  return args;
}

void LowRankAdamW::MeasureGradients() {
  backend_.Norm(parameters_.gradients, parameters_.table->flat_size(),
                static_cast<float*>(norm_->data()));
}

void LowRankAdamW::Update(int64_t step, double learning_rate) {
  for (const Slot& slot : slots_) {
    if (!slot.projected) {
      UpdatePlain(slot, step, learning_rate);
      continue;
    }
    if ((step - 1) % config_.low_rank.update_interval == 0) {
      ComputeSubspace(slot, /*first=*/step == 1);
      const int64_t moment_bytes = slot.longer * config_.low_rank.rank * 4;
      if (config_.low_rank.reset_moments && step > 1) {
        backend_.Zero(slot.first_moment, moment_bytes);
        backend_.Zero(slot.second_moment, moment_bytes);
      }
    }
    UpdateProjected(slot, step, learning_rate);
  }
}

void LowRankAdamW::UpdatePlain(const Slot& slot, int64_t step, double learning_rate) {
  const model::Parameter& parameter = (*parameters_.table)[slot.parameter];
  kernels::AdamWArgs args = Args(slot, step);
  args.size = parameter.size;
  args.parameters = Master(slot);
  args.gradients = Gradient(slot);
  args.learning_rate = static_cast<float>(learning_rate);
  args.weight_decay = slot.decay ? static_cast<float>(config_.weight_decay) : 0.0f;
  if (parameters_.bf16 != nullptr) {
    args.bf16_parameters = static_cast<char*>(parameters_.bf16) + parameter.offset * 2;
  }
  backend_.AdamW(args);
}

void LowRankAdamW::TimesGradient(const Slot& slot, bool transpose, float* thin, float* out) {
  const model::Parameter& parameter = (*parameters_.table)[slot.parameter];
  Operand gradient = View(backend_, F32(Gradient(slot), parameter.shape[0], parameter.shape[1]));
  if (slot.transposed != transpose) gradient = backend_.Transposed(gradient);
  const int64_t rank = config_.low_rank.rank;
  const Operand columns = backend_.Transposed(View(backend_, F32(thin, gradient.cols, rank)));
  backend_.Multiply(gradient, columns, F32(out, gradient.rows, rank), /*accumulate=*/false);
}

void LowRankAdamW::ComputeSubspace(const Slot& slot, bool first) {
  const int64_t rank = config_.low_rank.rank;
  const int64_t size = slot.shorter * rank;
  std::vector<double> basis;
  if (first) {
    basis = StartingSubspace(seed_, slot.parameter, slot.shorter, rank);
    Orthonormalise(slot.shorter, rank, basis.data());
    std::copy(basis.begin(), basis.end(), host_.begin());
    backend_.CopyToDevice(slot.projector, host_.data(), size * 4);
  }
  float* thin = static_cast<float*>(projected_->data());
  for (int i = 0; i < kIterations; ++i) {
    TimesGradient(slot, /*transpose=*/false, slot.projector, thin);
    TimesGradient(slot, /*transpose=*/true, thin, slot.projector);
    backend_.CopyToHost(host_.data(), slot.projector, size * 4);
    // A device's error is sticky: the step's end reports it.
    backend_.Wait(backend_.Record()).IgnoreError();
    basis.assign(host_.begin(), host_.begin() + size);
    Orthonormalise(slot.shorter, rank, basis.data());
    std::copy(basis.begin(), basis.end(), host_.begin());
    backend_.CopyToDevice(slot.projector, host_.data(), size * 4);
  }
}

// p = p - lr wd p, as an AdamW update whose gradient and moments are zero: its direction is 0.
void LowRankAdamW::Decay(const Slot& slot, double learning_rate) {
  if (!slot.decay || config_.weight_decay == 0) return;
  const int64_t size = (*parameters_.table)[slot.parameter].size;
  float* zeros = static_cast<float*>(zeros_->data());
  kernels::AdamWArgs args = Args(slot, /*step=*/1);
  args.gradients = zeros;
  args.first_moment = zeros + kDecayElements;
  args.second_moment = zeros + 2 * kDecayElements;
  args.max_gradient_norm = 0;
  args.learning_rate = static_cast<float>(learning_rate);
  args.weight_decay = static_cast<float>(config_.weight_decay);
  for (int64_t first = 0; first < size; first += kDecayElements) {
    args.size = std::min(kDecayElements, size - first);
    args.parameters = Master(slot) + first;
    backend_.AdamW(args);
  }
}

void LowRankAdamW::UpdateProjected(const Slot& slot, int64_t step, double learning_rate) {
  const model::Parameter& parameter = (*parameters_.table)[slot.parameter];
  const int64_t rank = config_.low_rank.rank;
  float* projected = static_cast<float*>(projected_->data());
  float* update = static_cast<float*>(update_->data());
  TimesGradient(slot, /*transpose=*/false, slot.projector, projected);
  // AdamW of parameters that are zero leaves -learning_rate times the direction.
  backend_.Zero(update, slot.longer * rank * 4);
  kernels::AdamWArgs args = Args(slot, step);
  args.size = slot.longer * rank;
  args.parameters = update;
  args.gradients = projected;
  args.learning_rate = static_cast<float>(learning_rate * config_.low_rank.scale);
  args.weight_decay = 0;
  backend_.AdamW(args);

  Decay(slot, learning_rate);
  const Operand tall = View(backend_, F32(update, slot.longer, rank));
  const Operand projector = View(backend_, F32(slot.projector, slot.shorter, rank));
  const Matrix master = F32(Master(slot), parameter.shape[0], parameter.shape[1]);
  if (slot.transposed) {
    backend_.Multiply(projector, tall, master, /*accumulate=*/true);
  } else {
    backend_.Multiply(tall, projector, master, /*accumulate=*/true);
  }
  if (parameters_.bf16 == nullptr) return;
  const Matrix flat = F32(Master(slot), 1, parameter.size);
  backend_.Cast(flat, Matrix{static_cast<char*>(parameters_.bf16) + parameter.offset * 2,
                             DType::kBF16, 1, parameter.size});
}

std::vector<StateTensor> LowRankAdamW::State() const {
  std::vector<StateTensor> state;
  const int64_t rank = config_.low_rank.rank;
  for (const Slot& slot : slots_) {
    const model::Parameter& parameter = (*parameters_.table)[slot.parameter];
    std::vector<int64_t> shape = parameter.shape;
    int64_t size = parameter.size;
    if (slot.projected) {
      shape = {slot.longer, rank};
      size = slot.longer * rank;
    }
    state.push_back({absl::StrCat(parameter.name, ".exp_avg"), shape, slot.first_moment, size});
    state.push_back({absl::StrCat(parameter.name, ".exp_avg_sq"), shape, slot.second_moment, size});
    if (slot.projected) {
      state.push_back({absl::StrCat(parameter.name, ".projector"),
                       {slot.shorter, rank},
                       slot.projector,
                       slot.shorter * rank});
    }
  }
  return state;
}

}  // namespace nibble::optimizer
