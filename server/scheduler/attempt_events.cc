// What workers report of attempts: the trainer's life and its checkpoints.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {
namespace {

std::string ActorOf(absl::string_view worker_id) { return absl::StrCat("worker:", worker_id); }

std::string StaleMessage(const AttemptId& attempt) {
  return absl::StrCat("attempt ", attempt.attempt, " of job ", attempt.job_id,
                      " is not its live one, or not on this worker");
}

// Messages are stored with every later version of the row.
constexpr size_t kMaxMessageBytes = 2048;

absl::string_view Shorten(absl::string_view message) {
  if (message.size() <= kMaxMessageBytes) return message;
  size_t end = kMaxMessageBytes;
  while (end > 0 && (static_cast<uint8_t>(message[end]) & 0xc0) == 0x80) --end;  // whole UTF-8
  return message.substr(0, end);
}

// Not the job's doing: counted as a loss, not against the user's budget.
bool IsLoss(FailureClass failure_class) {
  return failure_class == FailureClass::kPreempted || failure_class == FailureClass::kControl;
}

}  // namespace

Scheduler::Machine::LiveJob* Scheduler::Machine::FindAttempt(const std::string& worker_id,
                                                             const AttemptId& attempt) {
  LiveJob* const job = FindLive(attempt.job_id);
  if (job == nullptr || !HasLiveAttempt(job->record.state) ||
      job->record.attempt != attempt.attempt || job->record.worker_id != worker_id) {
    return nullptr;
  }
  return job;
}

Error Scheduler::Machine::CheckAttempt(absl::string_view worker_id, absl::string_view incarnation,
                                       const AttemptId& attempt) const {
  Error known = CheckWorker(worker_id, incarnation);
  if (!known.ok()) return known;
  const JobRecord* const job = FindJob(attempt.job_id);
  if (job == nullptr || !HasLiveAttempt(job->state) || job->attempt != attempt.attempt ||
      job->worker_id != worker_id) {
    return {absl::StatusCode::kFailedPrecondition, ErrorReason::kStaleAttempt,
            StaleMessage(attempt)};
  }
  return {};
}

bool Scheduler::Machine::IsRepeatedReport(const AttemptReported& event) {
  const LiveJob* const job = FindLive(event.attempt.job_id);
  const JobRecord* const record = job != nullptr ? &job->record : stored_job_.get();
  return record != nullptr && record->reported_attempt == event.attempt.attempt &&
         record->reported_status == event.status;
}

void Scheduler::Machine::Handle(const AttemptReported& event) {
  const Error known = CheckWorker(event.worker_id, event.incarnation);
  if (!known.ok()) return Fail(known.code, known.reason, known.message);
  WorkerState& worker = workers_.at(event.worker_id);
  Seen(worker);
  const bool ended = event.status != AttemptStatus::kTraining;
  if (event.status == AttemptStatus::kUnspecified ||
      (event.status == AttemptStatus::kSucceeded && !event.result.has_value())) {
    return Fail(
        absl::StatusCode::kInvalidArgument, ErrorReason::kInvalidArgument,
        event.status == AttemptStatus::kSucceeded ? "result is missing" : "status is missing");
  }
  LiveJob* const job = FindAttempt(event.worker_id, event.attempt);
  if (job == nullptr) {
    // Nothing about a stale attempt is believed but its end.
    if (ended) FreeZombie(worker, event.attempt);
    if (IsRepeatedReport(event)) return;
    return Fail(absl::StatusCode::kFailedPrecondition, ErrorReason::kStaleAttempt,
                StaleMessage(event.attempt));
  }

  const std::string actor = ActorOf(event.worker_id);
  if (ended) {
    job->record.reported_attempt = event.attempt.attempt;
    job->record.reported_status = event.status;
  }
  switch (event.status) {
    case AttemptStatus::kTraining:
      if (job->record.state != JobState::kStarting) return;
      return Transition(*job, {JobState::kRunning, JobReason::kTrainerStarted, "training"}, actor);
    case AttemptStatus::kSucceeded:
      return AttemptSucceeded(*job, event, actor);
    case AttemptStatus::kFailed:
      return AttemptFailed(*job, event, actor);
    case AttemptStatus::kStopped:
      return LoseAttempt(
          *job, Trainer::kDead,
          {JobState::kQueued, JobReason::kWorkerStopped,
           absl::StrCat("worker ", event.worker_id, " stopped attempt ", event.attempt.attempt)},
          actor);
    default:  // PAUSED, RELEASED
      break;
  }
  if (EndRequested(*job, Trainer::kDead, actor)) return;
  // Given back unharmed, because the worker shuts down: for a while it gets nothing new.
  worker.closed_until_nanos = now_.monotonic_nanos + options_.lease_term_nanos;
  EndAttempt(*job, Trainer::kDead);
  Requeue(
      *job,
      {JobState::kQueued, JobReason::kWorkerStopped,
       absl::StrCat("worker ", event.worker_id, " gave attempt ", event.attempt.attempt, " back")},
      /*delay_nanos=*/0, actor);
}

void Scheduler::Machine::AttemptSucceeded(LiveJob& job, const AttemptReported& event,
                                          absl::string_view actor) {
  if (job.record.state == JobState::kStopping) {
    EndRequested(job, Trainer::kDead, actor);
    return;
  }
  if (job.record.state == JobState::kStarting) {
    // Its report of TRAINING was lost on the way.
    Transition(job, {JobState::kRunning, JobReason::kTrainerStarted, "training"}, actor);
  }
  EndAttempt(job, Trainer::kDead);
  job.record.result = event.result;
  Transition(job,
             {JobState::kSucceeded, JobReason::kCompleted,
              absl::StrCat("completed ", event.result->steps, " steps")},
             actor);
}

void Scheduler::Machine::AttemptFailed(LiveJob& job, const AttemptReported& event,
                                       absl::string_view actor) {
  JobRecord& record = job.record;
  record.last_failure = event.failure_class;
  const std::string message =
      absl::StrCat("attempt ", event.attempt.attempt, " failed (",
                   FailureClassName(event.failure_class), "): ", Shorten(event.message));
  if (IsLoss(event.failure_class)) {
    return LoseAttempt(job, Trainer::kDead, {JobState::kQueued, JobReason::kTrainerFailed, message},
                       actor);
  }
  ++record.failures;
  const int32_t failures = ++record.failures_without_progress;
  if (EndRequested(job, Trainer::kDead, actor)) return;
  EndAttempt(job, Trainer::kDead);
  if (event.failure_class == FailureClass::kUser) {
    // The spec itself is at fault: another attempt would end the same way.
    return Transition(job, {JobState::kFailed, JobReason::kTrainerFailed, message}, actor);
  }
  if (failures > record.document->max_failures) {
    return Transition(job,
                      {JobState::kFailed, JobReason::kRestartBudgetExhausted,
                       absl::StrCat(message, "; ", failures, " failures without a new checkpoint, ",
                                    record.document->max_failures, " allowed")},
                      actor);
  }
  Requeue(job, {JobState::kQueued, JobReason::kTrainerFailed, message}, BackoffNanos(failures),
          actor);
}

void Scheduler::Machine::Handle(const CheckpointCommitted& event) {
  const Error known = CheckWorker(event.worker_id, event.incarnation);
  if (!known.ok()) return Fail(known.code, known.reason, known.message);
  Seen(workers_.at(event.worker_id));
  CheckpointRecord checkpoint = event.checkpoint;
  const AttemptId attempt{checkpoint.job_id, checkpoint.attempt};
  LiveJob* const job = FindAttempt(event.worker_id, attempt);
  if (job == nullptr) {
    return Fail(absl::StatusCode::kFailedPrecondition, ErrorReason::kStaleAttempt,
                StaleMessage(attempt));
  }
  const int64_t total_steps = job->record.document->total_steps;
  if (checkpoint.step < 0 || checkpoint.step > total_steps) {
    return Fail(
        absl::StatusCode::kInvalidArgument, ErrorReason::kInvalidArgument,
        absl::StrCat("checkpoint.step is ", checkpoint.step, "; allowed: 0 to ", total_steps));
  }
  std::vector<CheckpointRecord>& kept = job->checkpoints;
  for (const CheckpointRecord& known : kept) {
    if (known.attempt == checkpoint.attempt && known.step == checkpoint.step &&
        known.manifest_digest == checkpoint.manifest_digest) {
      reply_.answer = CheckpointAnswer{kept};  // sent again
      return;
    }
  }
  const bool same_lineage = !kept.empty() && kept.front().attempt == checkpoint.attempt;
  if (same_lineage && checkpoint.step <= kept.front().step) {
    return Fail(absl::StatusCode::kFailedPrecondition, ErrorReason::kCheckpointOrder,
                absl::StrCat("checkpoint.step is ", checkpoint.step, "; attempt ",
                             checkpoint.attempt, " has committed step ", kept.front().step));
  }
  checkpoint.worker_id = event.worker_id;
  checkpoint.create_micros = now_.wall_micros;
  // An attempt that had to start from an older checkpoint replaces what came after that one.
  while (!kept.empty() && kept.front().step >= checkpoint.step) {
    if (kept.front().step != checkpoint.step) {
      transaction_.removed_checkpoints.push_back(kept.front());
    }
    kept.erase(kept.begin());
  }
  transaction_.checkpoints.push_back(checkpoint);
  kept.insert(kept.begin(), std::move(checkpoint));
  const size_t keep = std::max<int32_t>(job->record.document->keep_checkpoints, 1);
  while (kept.size() > keep) {
    transaction_.removed_checkpoints.push_back(kept.back());
    kept.pop_back();
  }
  if (kept.front().step > job->record.committed_step) {
    job->record.committed_step = kept.front().step;
    job->record.failures_without_progress = 0;
    job->record.losses_without_progress = 0;
  }
  Touch(*job);
  changed_workers_.insert(event.worker_id);  // resume_from has changed
  reply_.answer = CheckpointAnswer{kept};
}

}  // namespace nibble::scheduler
