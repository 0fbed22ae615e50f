#include "server/coordinator/job_gauges.h"

#include <array>

namespace nibble::coordinator {

void JobGauges::Changed(const scheduler::JobRecord& job, bool deleted, int64_t now_nanos) {
  if (deleted || !scheduler::HasLiveAttempt(job.state)) {
    telemetry_->JobInactive(job.job_id);
  } else {
    telemetry_->JobActive({job.job_id, job.document->name, recipe_of_(*job.document)});
  }
  if (!deleted && job.state == scheduler::JobState::kQueued) {
    queued_since_nanos_.emplace(job.job_id, now_nanos);
    return;
  }
  const auto queued = queued_since_nanos_.find(job.job_id);
  if (queued == queued_since_nanos_.end()) return;
  if (!deleted && scheduler::HasLiveAttempt(job.state)) {
    telemetry_->QueueWaited(static_cast<double>(now_nanos - queued->second) * 1e-9);
  }
  queued_since_nanos_.erase(queued);
}

telemetry::ControlPlaneCounts CountsOf(const std::array<int64_t, 10>& jobs_by_state,
                                       const scheduler::SchedulerStats& stats) {
  telemetry::ControlPlaneCounts counts;
  for (size_t state = 1; state < jobs_by_state.size(); ++state) {
    const auto name = scheduler::JobStateName(static_cast<scheduler::JobState>(state));
    counts.jobs_by_state[std::string(name)] = jobs_by_state[state];
  }
  counts.queue_depth = stats.queue_depth;
  counts.workers_online = stats.workers_online;
  counts.workers_unreachable = stats.workers_unreachable;
  counts.slots_total = stats.slots;
  counts.slots_used = stats.slots_used;
  counts.leases = stats.leases;
  return counts;
}

}  // namespace nibble::coordinator
