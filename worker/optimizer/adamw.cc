#include "worker/optimizer/adamw.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace nibble::optimizer {

absl::StatusOr<std::unique_ptr<AdamW>> AdamW::Create(const AdamWConfig& config,
                                                     const FlatParameters& parameters,
                                                     kernels::Backend& backend) {
  std::unique_ptr<AdamW> optimizer(new AdamW(config, parameters, backend));
  NIBBLE_ASSIGN_OR_RETURN(optimizer->ranges_, DecayRanges(config, *parameters.table));
  const int64_t bytes = parameters.table->flat_size() * 4;
  NIBBLE_ASSIGN_OR_RETURN(optimizer->first_moment_, backend.Allocate(bytes));
  NIBBLE_ASSIGN_OR_RETURN(optimizer->second_moment_, backend.Allocate(bytes));
  NIBBLE_ASSIGN_OR_RETURN(optimizer->norm_, backend.Allocate(4));
  return optimizer;
}

void AdamW::MeasureGradients() {
  backend_.Norm(parameters_.gradients, parameters_.table->flat_size(),
                static_cast<float*>(norm_->data()));
}

void AdamW::Update(int64_t step, double learning_rate) {
  for (const DecayRange& range : ranges_) UpdateRange(range, step, learning_rate);
}

void AdamW::UpdateRange(const DecayRange& range, int64_t step, double learning_rate) {
  const int64_t first = range.first;
  kernels::AdamWArgs args;
  args.size = range.size;
  args.parameters = parameters_.master + first;
  args.gradients = parameters_.gradients + first;
  args.first_moment = first_moment() + first;
  args.second_moment = second_moment() + first;
  args.bf16_parameters =
      parameters_.bf16 == nullptr ? nullptr : static_cast<char*>(parameters_.bf16) + first * 2;
  args.gradient_norm = gradient_norm();
  args.max_gradient_norm = static_cast<float>(config_.gradient_clip);
  args.learning_rate = static_cast<float>(learning_rate);
  args.beta1 = static_cast<float>(config_.beta1);
  args.beta2 = static_cast<float>(config_.beta2);
  args.epsilon = static_cast<float>(config_.epsilon);
  args.weight_decay = range.decay ? static_cast<float>(config_.weight_decay) : 0.0f;
  args.step = step;
  backend_.AdamW(args);
}

std::vector<StateTensor> AdamW::State() const {
  std::vector<StateTensor> state;
  for (const auto& [moment, suffix] :
       {std::pair(first_moment(), ".exp_avg"), std::pair(second_moment(), ".exp_avg_sq")}) {
    for (const model::Parameter& parameter : parameters_.table->parameters()) {
      state.push_back({absl::StrCat(parameter.name, suffix), parameter.shape,
                       moment + parameter.offset, parameter.size});
    }
  }
  return state;
}

}  // namespace nibble::optimizer
