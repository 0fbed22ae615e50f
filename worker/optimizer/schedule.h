// Learning rate as a function of the step.
#ifndef WORKER_OPTIMIZER_SCHEDULE_H_
#define WORKER_OPTIMIZER_SCHEDULE_H_

#include <cstdint>

#include "worker/optimizer/optimizer_config.h"

namespace nibble::optimizer {

// The factor of the base learning rate for update `step` (1-based) of `total_steps`. With W warm-up
// steps, final fraction f, s = step and N = total_steps:
//   s <= W          s / W                                                       (all kinds)
//   constant        1
//   linear          1 - (1 - f) (s - W) / (N - W)
//   cosine          f + (1 - f) (1 + cos(pi (s - W) / (N - W))) / 2
//   wsd             1 up to step N - D, then with u = (s - (N - D)) / D
//                     linear          1 - (1 - f) u
//                     one minus sqrt  f + (1 - f) (1 - sqrt(u))    (arXiv 2405.18392, section 3)
//                   D = decay_fraction * N rounded half away from zero, at most N - W
// So the last update has factor f, except where warm-up reaches to the end. Computed in FP64.
// REQUIRES: 1 <= step <= total_steps.
double LearningRateFactor(const ScheduleConfig& config, int64_t step, int64_t total_steps);

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_SCHEDULE_H_
