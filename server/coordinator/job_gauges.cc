#include "server/coordinator/job_gauges.h"

#include <array>

namespace nibble::coordinator {

void JobGauges::ShowSeries(const scheduler::JobRecord& job, Known* known) {
  if (scheduler::HasLiveAttempt(job.state)) {
    telemetry_->JobActive({job.job_id, job.document->name, recipe_of_(*job.document)});
    known->has_series = true;
  } else if (known->has_series) {
    telemetry_->JobInactive(job.job_id);
    known->has_series = false;
  }
}

void JobGauges::NoteQueue(const scheduler::JobRecord& job, int64_t now_nanos, Known* known) {
  if (job.state != scheduler::JobState::kQueued) {
    known->queued_since_nanos.reset();
  } else if (!known->queued_since_nanos.has_value()) {
    known->queued_since_nanos = now_nanos;
  }
}

void JobGauges::Recovered(const std::vector<scheduler::Recovered::Job>& jobs, int64_t now_nanos) {
  known_.reserve(jobs.size());
  for (const scheduler::Recovered::Job& row : jobs) {
    Known& known = known_[row.record.job_id];
    ShowSeries(row.record, &known);
    known.attempt = row.record.attempt;
    NoteQueue(row.record, now_nanos, &known);
  }
}

void JobGauges::Changed(const scheduler::JobRecord& job, bool deleted, int64_t now_nanos) {
  if (deleted || scheduler::IsTerminal(job.state)) {
    telemetry_->JobInactive(job.job_id);
    known_.erase(job.job_id);
    return;
  }
  Known& known = known_[job.job_id];
  ShowSeries(job, &known);
  if (scheduler::HasLiveAttempt(job.state) && job.attempt > known.attempt) {
    known.attempt = job.attempt;
    // Only the state after a whole step is seen here: a job that found free slots was never queued.
    const int64_t since = known.queued_since_nanos.value_or(now_nanos);
    telemetry_->QueueWaited(static_cast<double>(now_nanos - since) * 1e-9);
  }
  NoteQueue(job, now_nanos, &known);
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
