// The AdamW optimiser over flat device buffers; the formula is at kernels::AdamWArgs. Clipping by
// the global gradient norm happens on the device: the host never waits for the norm.
#ifndef WORKER_OPTIMIZER_ADAMW_H_
#define WORKER_OPTIMIZER_ADAMW_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/optimizer/optimizer_config.h"

namespace nibble::optimizer {

// What one update changes and reads: flat arrays of one layout, device pointers.
struct FlatParameters {
  int64_t size = 0;
  // Weight decay applies to the elements [0, decay_size).
  int64_t decay_size = 0;
  float* master = nullptr;
  const float* gradients = nullptr;
  void* bf16 = nullptr;  // null: none
};

// Not thread-safe.
class AdamW {
 public:
  // Moments zero. RESOURCE_EXHAUSTED where the device has no such memory. `backend` outlives it.
  static absl::StatusOr<std::unique_ptr<AdamW>> Create(const AdamWConfig& config,
                                                       const FlatParameters& parameters,
                                                       kernels::Backend& backend);

  // Update number `step`, from 1, with this learning rate. Leaves the norm of the gradients before
  // clipping in gradient_norm().
  void Update(int64_t step, double learning_rate);

  float* first_moment() const { return static_cast<float*>(first_moment_->data()); }
  float* second_moment() const { return static_cast<float*>(second_moment_->data()); }
  // One float on the device.
  const float* gradient_norm() const { return static_cast<const float*>(norm_->data()); }

 private:
  AdamW(const AdamWConfig& config, const FlatParameters& parameters, kernels::Backend& backend)
      : config_(config), parameters_(parameters), backend_(backend) {}
  void UpdateRange(int64_t first, int64_t size, double weight_decay, int64_t step,
                   double learning_rate);

  const AdamWConfig config_;
  const FlatParameters parameters_;
  kernels::Backend& backend_;
  std::unique_ptr<kernels::DeviceBuffer> first_moment_, second_moment_, norm_;
};

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_ADAMW_H_
