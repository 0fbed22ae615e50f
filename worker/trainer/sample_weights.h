// Weights of the sequences of a step by their losses, after Sow et al., "Dynamic Loss-Based Sample
// Reweighting for Improved Large Language Model Pretraining" (ICLR 2025, arXiv 2502.06733).
#ifndef WORKER_TRAINER_SAMPLE_WEIGHTS_H_
#define WORKER_TRAINER_SAMPLE_WEIGHTS_H_

#include <cstdint>
#include <vector>

namespace nibble::trainer {

enum class WeightStrategy { kUniform, kLinearUpper, kQuadratic, kExtremes };

struct SampleWeightConfig {
  WeightStrategy strategy = WeightStrategy::kUniform;
  double temperature = 1;
  int64_t warmup_steps = 0;  // uniform during these
};

// One weight a sequence, their mean 1. With L the losses of the step's sequences,
//   h_i = (2 L_i - (max L + min L)) / max(max L - min L, 1e-6)      in [-1, 1]
//   f_i = min(h_i + 1, 1)  linear_upper;  1 - h_i^2  quadratic;  |h_i|  extremes;  0  uniform
//   w_i = n exp(f_i / temperature) / sum_j exp(f_j / temperature)
// in FP64, sums in order. Where a loss is not finite all weights are 1: the step fails by itself.
// REQUIRES: temperature > 0.
void SampleWeights(const SampleWeightConfig& config, const std::vector<double>& losses,
                   std::vector<double>* weights);

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_SAMPLE_WEIGHTS_H_
