// Options of the training objective that the output head knows: see kernels::LmHeadArgs.
#ifndef WORKER_MODEL_LOSS_CONFIG_H_
#define WORKER_MODEL_LOSS_CONFIG_H_

#include <cmath>
#include <cstdint>

namespace nibble::model {

struct LossConfig {
  double z_loss = 0;         // 0: off
  double logit_softcap = 0;  // 0: off; in evaluation as well
};

// logits[i] = cap tanh(logits[i] / cap), as the output head does where `cap` is not 0; on the host.
inline void SoftCap(double cap, float* logits, int64_t count) {
  if (cap == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    logits[i] = static_cast<float>(cap * std::tanh(static_cast<double>(logits[i]) / cap));
  }
}

}  // namespace nibble::model

#endif  // WORKER_MODEL_LOSS_CONFIG_H_
