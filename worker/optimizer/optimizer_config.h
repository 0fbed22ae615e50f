// Options of the optimiser and of its learning-rate schedule.
#ifndef WORKER_OPTIMIZER_OPTIMIZER_CONFIG_H_
#define WORKER_OPTIMIZER_OPTIMIZER_CONFIG_H_

#include <cstdint>

namespace nibble::optimizer {

enum class ScheduleKind { kConstant, kCosine, kWsd };

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kCosine;
  int64_t warmup_steps = 0;
  double decay_fraction = 0.2;  // kWsd
  double final_fraction = 0.1;
};

struct AdamWConfig {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double gradient_clip = 1.0;  // 0: off
};

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_OPTIMIZER_CONFIG_H_
