#include "worker/optimizer/adamw.h"

#include "base/status_macros.h"

namespace nibble::optimizer {

absl::StatusOr<std::unique_ptr<AdamW>> AdamW::Create(const AdamWConfig& config,
                                                     const FlatParameters& parameters,
                                                     kernels::Backend& backend) {
  std::unique_ptr<AdamW> optimizer(new AdamW(config, parameters, backend));
  NIBBLE_ASSIGN_OR_RETURN(optimizer->first_moment_, backend.Allocate(parameters.size * 4));
  NIBBLE_ASSIGN_OR_RETURN(optimizer->second_moment_, backend.Allocate(parameters.size * 4));
  NIBBLE_ASSIGN_OR_RETURN(optimizer->norm_, backend.Allocate(4));
  return optimizer;
}

void AdamW::Update(int64_t step, double learning_rate) {
  backend_.Norm(parameters_.gradients, parameters_.size, static_cast<float*>(norm_->data()));
  const int64_t decay_size = parameters_.decay_size;
  UpdateRange(0, decay_size, config_.weight_decay, step, learning_rate);
  UpdateRange(decay_size, parameters_.size - decay_size, /*weight_decay=*/0, step, learning_rate);
}

void AdamW::UpdateRange(int64_t first, int64_t size, double weight_decay, int64_t step,
                        double learning_rate) {
  if (size == 0) return;
  kernels::AdamWArgs args;
  args.size = size;
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
  args.weight_decay = static_cast<float>(weight_decay);
  args.step = step;
  backend_.AdamW(args);
}

}  // namespace nibble::optimizer
