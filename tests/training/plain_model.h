// The model families and AdamW once more, in FP64 and as plainly as possible: nothing of it
// is shared with what it checks. Weights go by their names in a checkpoint.
#ifndef TESTS_TRAINING_PLAIN_MODEL_H_
#define TESTS_TRAINING_PLAIN_MODEL_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "worker/model/model_config.h"

namespace nibble::testing {

using PlainWeights = std::map<std::string, std::vector<double>>;

// Mean cross-entropy in nats over all sequences and positions. inputs, targets: [sequences][T].
double PlainLoss(const model::ModelConfig& config, const PlainWeights& weights,
                 const std::vector<std::vector<int32_t>>& inputs,
                 const std::vector<std::vector<int32_t>>& targets);

// Gradient of PlainLoss by central differences; error about 1e-9 for values and weights near 1.
PlainWeights PlainGradient(const model::ModelConfig& config, const PlainWeights& weights,
                           const std::vector<std::vector<int32_t>>& inputs,
                           const std::vector<std::vector<int32_t>>& targets);

// Matrices and convolutions; not norms, biases and what Mamba-2 has one of a head.
bool PlainDecays(const std::string& name);

struct PlainAdamW {
  double beta1, beta2, epsilon, weight_decay, clip;
  PlainWeights m, v;
  int64_t t = 0;
  // Decay applies to the weights that PlainDecays names. Returns the gradient's norm.
  double Update(double learning_rate, const PlainWeights& gradient, PlainWeights* weights);
};

}  // namespace nibble::testing

#endif  // TESTS_TRAINING_PLAIN_MODEL_H_
