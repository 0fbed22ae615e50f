#include <tuple>

#include "server/scheduler/scheduling_policy.h"

namespace nibble::scheduler {
namespace {

bool Before(const QueuedJob& a, const QueuedJob& b) {
  return std::make_tuple(-int64_t{a.priority}, a.submit_sequence) <
         std::make_tuple(-int64_t{b.priority}, b.submit_sequence);
}

class PriorityPolicy : public SchedulingPolicy {
 public:
  std::optional<Decision> Next(const SchedulingView& view) const override {
    std::optional<QueuedJob> best;
    std::string best_worker;
    for (QueuedJob& job : view.Heads()) {
      if (best.has_value() && Before(*best, job)) continue;
      std::optional<std::string> worker = Place(job, view);
      if (!worker.has_value()) continue;
      best = std::move(job);
      best_worker = *std::move(worker);
    }
    if (!best.has_value()) return std::nullopt;
    return Decision{best->job_id, best_worker};
  }

 private:
  static std::optional<std::string> Place(const QueuedJob& job, const SchedulingView& view) {
    if (!job.preferred_worker.empty() && view.FreeSlots(job.preferred_worker) >= job.slots) {
      return job.preferred_worker;
    }
    return view.TightestFit(job.slots);
  }
};

}  // namespace

std::unique_ptr<SchedulingPolicy> MakePriorityPolicy() {
  return std::make_unique<PriorityPolicy>();
}

}  // namespace nibble::scheduler
