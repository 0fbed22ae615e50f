#include "worker/optimizer/schedule.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace nibble::optimizer {

double LearningRateFactor(const ScheduleConfig& config, int64_t step, int64_t total_steps) {
  NIBBLE_CHECK(1 <= step && step <= total_steps);
  const int64_t warmup = config.warmup_steps;
  if (step <= warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  const double span = 1.0 - config.final_fraction;
  switch (config.kind) {
    case ScheduleKind::kConstant:
      return 1.0;
    case ScheduleKind::kLinear:
      return 1.0 - span * (static_cast<double>(step - warmup) /
                           static_cast<double>(total_steps - warmup));
    case ScheduleKind::kCosine: {
      const double done =
          static_cast<double>(step - warmup) / static_cast<double>(total_steps - warmup);
      return config.final_fraction + span * 0.5 * (1.0 + std::cos(3.14159265358979323846 * done));
    }
    case ScheduleKind::kWsd: {
      const int64_t decay =
          std::min<int64_t>(std::llround(config.decay_fraction * static_cast<double>(total_steps)),
                            total_steps - warmup);
      const int64_t into_decay = step - (total_steps - decay);
      if (into_decay <= 0) return 1.0;
      const double done = static_cast<double>(into_decay) / static_cast<double>(decay);
      return config.decay_shape == DecayShape::kLinear
                 ? 1.0 - span * done
                 : config.final_fraction + span * (1.0 - std::sqrt(done));
    }
  }
  NIBBLE_CHECK(false);
  return 0;
}

}  // namespace nibble::optimizer
