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

JobGauges::Known& JobGauges::Find(const scheduler::JobRecord& job) {
  const auto [entry, inserted] = known_.try_emplace(job.job_id);
  if (inserted && job.submit_sequence <= recovered_sequence_) {
    entry->second.queued_since_nanos = recovered_nanos_;
  }
  return entry->second;
}

void JobGauges::Recovered(const scheduler::Recovered& recovered, int64_t now_nanos) {
  const bool first = !recovered_nanos_.has_value();
  for (const auto& [job, checkpoints] : recovered.jobs) {
    if (first && job.state == scheduler::JobState::kQueued) continue;
    Known& known = Find(job);
    ShowSeries(job, &known);
    known.attempt = job.attempt;
    NoteQueue(job, now_nanos, &known);
  }
  if (!first) return;
  recovered_sequence_ = recovered.last_submit_sequence;
  recovered_nanos_ = now_nanos;
}

void JobGauges::Changed(const scheduler::JobRecord& job, bool deleted, int64_t now_nanos) {
  if (deleted || scheduler::IsTerminal(job.state)) {
    telemetry_->JobInactive(job.job_id);
    known_.erase(job.job_id);
    return;
  }
  Known& known = Find(job);
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
