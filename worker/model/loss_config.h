// Options of the training objective that the output head knows: see kernels::LmHeadArgs.
#ifndef WORKER_MODEL_LOSS_CONFIG_H_
#define WORKER_MODEL_LOSS_CONFIG_H_

namespace nibble::model {

struct LossConfig {
  double z_loss = 0;         // 0: off
  double logit_softcap = 0;  // 0: off; in evaluation as well
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_LOSS_CONFIG_H_
