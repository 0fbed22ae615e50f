// Which queued job gets slots next, and where.
#ifndef SERVER_SCHEDULER_SCHEDULING_POLICY_H_
#define SERVER_SCHEDULER_SCHEDULING_POLICY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace nibble::scheduler {

// A job that may start now (not paused, not backing off).
struct QueuedJob {
  std::string job_id;
  int32_t priority = 0;
  int64_t submit_sequence = 0;
  int32_t slots = 1;
  // Where its newest checkpoint lies; empty for nowhere.
  std::string preferred_worker;
};

// What a policy sees. Views are incremental: no method scans the queue.
class SchedulingView {
 public:
  virtual ~SchedulingView() = default;
  // For every number of slots that some queued job asks for, the first of those jobs: highest
  // priority, then lowest submit_sequence.
  virtual std::vector<QueuedJob> Heads() const = 0;
  // 0 for a worker that takes no new work.
  virtual int32_t FreeSlots(absl::string_view worker_id) const = 0;
  // The worker with the fewest free slots that are at least `slots`; of equals, the first by name.
  virtual std::optional<std::string> TightestFit(int32_t slots) const = 0;
};

struct Decision {
  std::string job_id;
  std::string worker_id;

  friend bool operator==(const Decision&, const Decision&) = default;
};

// Stateless: the same view gives the same decision, any number of times. The scheduler applies a
// decision and asks again until there is none.
class SchedulingPolicy {
 public:
  virtual ~SchedulingPolicy() = default;
  // The chosen worker has at least the job's slots free. Absent where nothing can start.
  virtual std::optional<Decision> Next(const SchedulingView& view) const = 0;
};

// Priority, then submission order, among the jobs that fit somewhere; all slots on one worker or
// none. A job goes to the worker that holds its checkpoint where that has room, else to the
// tightest fit. A job too wide for every worker delays nobody.
std::unique_ptr<SchedulingPolicy> MakePriorityPolicy();

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_SCHEDULING_POLICY_H_
