// The AdamW optimiser over flat device buffers; the formula is at kernels::AdamWArgs. Clipping by
// the global gradient norm happens on the device: the host never waits for the norm.
#ifndef WORKER_OPTIMIZER_ADAMW_H_
#define WORKER_OPTIMIZER_ADAMW_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/optimizer/decay_mask.h"
#include "worker/optimizer/optimizer.h"
#include "worker/optimizer/optimizer_config.h"

namespace nibble::optimizer {

class AdamW : public Optimizer {
 public:
  // Moments zero. RESOURCE_EXHAUSTED where the device has no such memory; INVALID_ARGUMENT as
  // DecayRanges says. `backend` outlives it.
  static absl::StatusOr<std::unique_ptr<AdamW>> Create(const AdamWConfig& config,
                                                       const FlatParameters& parameters,
                                                       kernels::Backend& backend);

  void MeasureGradients() override;
  void Update(int64_t step, double learning_rate) override;
  // <parameter>.exp_avg of all parameters, then <parameter>.exp_avg_sq, as torch.optim.AdamW
  // calls them.
  std::vector<StateTensor> State() const override;
  int64_t state_bytes() const override { return 2 * parameters_.table->flat_size() * 4; }
  const float* gradient_norm() const override { return static_cast<const float*>(norm_->data()); }

 private:
  AdamW(const AdamWConfig& config, const FlatParameters& parameters, kernels::Backend& backend)
      : config_(config), parameters_(parameters), backend_(backend) {}
  void UpdateRange(const DecayRange& range, int64_t step, double learning_rate);
  float* first_moment() const { return static_cast<float*>(first_moment_->data()); }
  float* second_moment() const { return static_cast<float*>(second_moment_->data()); }

  const AdamWConfig config_;
  const FlatParameters parameters_;
  kernels::Backend& backend_;
  std::vector<DecayRange> ranges_;
  std::unique_ptr<kernels::DeviceBuffer> first_moment_, second_moment_, norm_;
};

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_ADAMW_H_
