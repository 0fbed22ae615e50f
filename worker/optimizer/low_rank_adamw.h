// AdamW whose moments live in a subspace of the gradients: GaLore (Zhao et al. 2024, arXiv
// 2403.03507), for the matrices of the blocks; everything else is AdamW.
//
// For a weight W with gradient G, the longer side L, the shorter S > rank r; written for rows of
// length S (otherwise W and G are transposed), G [L, S]:
//   at updates 1, 1 + interval, 1 + 2 interval, ...:  P [S, r] = leading right singular directions
//     of G: P from the start or the update before, then six times P = orthonormalise(G^T (G P))
//   R = G P                                                                  [L, r]
//   m, v, direction N as AdamW makes them of R (clipped by the norm of the whole gradient)
//   W = W - lr weight_decay W;  W = W - lr scale N P^T
// Products are FP32 on the device, the orthonormalisation FP64 on the host (subspace.h): the same
// bits with any number of threads. Moments keep their values when P changes, or start again at zero
// with reset_moments; the bias corrections go on with the step.
#ifndef WORKER_OPTIMIZER_LOW_RANK_ADAMW_H_
#define WORKER_OPTIMIZER_LOW_RANK_ADAMW_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/optimizer/decay_mask.h"
#include "worker/optimizer/optimizer.h"
#include "worker/optimizer/optimizer_config.h"

namespace nibble::optimizer {

class LowRankAdamW : public Optimizer {
 public:
  // State zero. `seed`: of the starting subspaces. Errors as AdamW::Create. `backend` outlives it.
  // REQUIRES: config.low_rank.rank > 0.
  static absl::StatusOr<std::unique_ptr<LowRankAdamW>> Create(const AdamWConfig& config,
                                                              uint64_t seed,
                                                              const FlatParameters& parameters,
                                                              kernels::Backend& backend);

  // The host waits, and works, at the updates that compute subspaces.
  void MeasureGradients() override;
  void Update(int64_t step, double learning_rate) override;
  // In the order of the table: <parameter>.exp_avg and <parameter>.exp_avg_sq, [L, r] for a
  // projected one, followed there by <parameter>.projector [S, r].
  std::vector<StateTensor> State() const override;
  int64_t state_bytes() const override { return state_bytes_; }
  const float* gradient_norm() const override { return static_cast<const float*>(norm_->data()); }

 private:
  // A parameter's part of the state.
  struct Slot {
    int parameter = 0;
    bool decay = false;
    float* first_moment = nullptr;
    float* second_moment = nullptr;
    // Projected parameters only.
    bool projected = false;
    bool transposed = false;  // W has more columns than rows
    int64_t longer = 0, shorter = 0;
    float* projector = nullptr;
  };

  LowRankAdamW(const AdamWConfig& config, uint64_t seed, const FlatParameters& parameters,
               kernels::Backend& backend)
      : config_(config), seed_(seed), parameters_(parameters), backend_(backend) {}
  absl::Status AllocateState();
  void UpdatePlain(const Slot& slot, int64_t step, double learning_rate);
  void UpdateProjected(const Slot& slot, int64_t step, double learning_rate);
  void ComputeSubspace(const Slot& slot, bool first);
  void Decay(const Slot& slot, double learning_rate);
  kernels::AdamWArgs Args(const Slot& slot, int64_t step) const;
  float* Gradient(const Slot& slot) const;
  float* Master(const Slot& slot) const;
  // out [rows of a, r] = a P, a being the gradient as [L, S] or, with `transpose`, as [S, L].
  void TimesGradient(const Slot& slot, bool transpose, float* thin, float* out);

  const AdamWConfig config_;
  const uint64_t seed_;
  const FlatParameters parameters_;
  kernels::Backend& backend_;
  std::vector<Slot> slots_;
  int64_t state_bytes_ = 0;
  std::unique_ptr<kernels::DeviceBuffer> state_, norm_;
  // Of the largest projected parameter: R, the update, and a block of zeros for Decay.
  std::unique_ptr<kernels::DeviceBuffer> projected_, update_, zeros_;
  std::vector<float> host_;
};

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_LOW_RANK_ADAMW_H_
