// Options of the optimiser and of its learning-rate schedule.
#ifndef WORKER_OPTIMIZER_OPTIMIZER_CONFIG_H_
#define WORKER_OPTIMIZER_OPTIMIZER_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::optimizer {

enum class ScheduleKind { kConstant, kLinear, kCosine, kWsd };
enum class DecayShape { kLinear, kOneMinusSqrt };

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kCosine;
  int64_t warmup_steps = 0;
  double decay_fraction = 0.2;  // kWsd
  double final_fraction = 0.1;
  DecayShape decay_shape = DecayShape::kLinear;  // kWsd
};

struct LowRankConfig {
  int64_t rank = 0;  // 0: off
  int64_t update_interval = 200;
  double scale = 0.25;
  bool reset_moments = false;
};

struct AdamWConfig {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double gradient_clip = 1.0;  // 0: off
  // Patterns of base/glob.h over parameter names: see decay_mask.h.
  std::vector<std::string> decay_include, decay_exclude;
  LowRankConfig low_rank;
};

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_OPTIMIZER_CONFIG_H_
