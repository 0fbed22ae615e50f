// What workers report of attempts: the trainer's life and its checkpoints.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/planted.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {
namespace {

std::string ActorOf(absl::string_view worker_id) { return absl::StrCat("worker:", worker_id); }

std::string StaleMessage(const AttemptId& attempt) {
  return absl::StrCat("attempt ", attempt.attempt, " of job ", attempt.job_id,
                      " is not its live one, or not on this worker");
}

constexpr int32_t kUnbounded = INT32_MAX;

// How often attempts may fail in this way without a newly committed step in between, whatever
// restart.max_failures says, before the next such failure is the job's.
int32_t BudgetOf(FailureClass failure_class) {
  switch (failure_class) {
    case FailureClass::kUser:  // the spec itself is at fault: every attempt would end the same way
      return 0;
    case FailureClass::kData:
      return 1;
    case FailureClass::kOutOfMemory:
      return 2;
    default:
      return kUnbounded;
  }
}

// Networks and file systems take longer to come back than a trainer to start.
int64_t InitialBackoff(FailureClass failure_class, int64_t usual_nanos) {
  return failure_class == FailureClass::kNetwork ? usual_nanos * 10 : usual_nanos;
}

// Failures that speak of the job, whatever worker they happen on.
bool SpeaksOfJob(FailureClass failure_class) {
  return failure_class == FailureClass::kUser || failure_class == FailureClass::kData ||
         failure_class == FailureClass::kNumeric;
}

}  // namespace

Scheduler::Machine::LiveJob* Scheduler::Machine::FindAttempt(const std::string& worker_id,
                                                             const AttemptId& attempt) {
  LiveJob* const job = FindLive(attempt.job_id);
  if (job == nullptr || !HasLiveAttempt(job->record.state) ||
      (job->record.attempt != attempt.attempt && !NIBBLE_PLANTED("no_epoch_check")) ||
      ShareOn(job->record, worker_id) == nullptr) {
    return nullptr;
  }
  return job;
}

// Messages are stored with every later version of the row.
absl::string_view Scheduler::Machine::Shorten(absl::string_view message) {
  constexpr size_t kMaxMessageBytes = 2048;
  if (message.size() <= kMaxMessageBytes) return message;
  size_t end = kMaxMessageBytes;
  while (end > 0 && (static_cast<uint8_t>(message[end]) & 0xc0) == 0x80) --end;  // whole UTF-8
  return message.substr(0, end);
}

Error Scheduler::Machine::CheckAttempt(absl::string_view worker_id, absl::string_view incarnation,
                                       const AttemptId& attempt) const {
  Error known = CheckWorker(worker_id, incarnation);
  if (!known.ok()) return known;
  const JobRecord* const job = FindJob(attempt.job_id);
  const bool held = job != nullptr && HasLiveAttempt(job->state) &&
                    job->attempt == attempt.attempt &&
                    std::any_of(job->placement.begin(), job->placement.end(),
                                [&](const WorkerShare& s) { return s.worker_id == worker_id; });
  if (!held) {
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
  const bool ended =
      event.status != AttemptStatus::kTraining && event.status != AttemptStatus::kNoted;
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
    case AttemptStatus::kNoted:
      return AttemptNoted(*job, event, actor);
    case AttemptStatus::kGuardPaused:
      return PauseByGuard(*job, event, actor);
    case AttemptStatus::kStopped:
      return LoseAttempt(
          *job, Trainer::kDead, event.worker_id,
          {JobState::kQueued, JobReason::kWorkerStopped,
           absl::StrCat("worker ", event.worker_id, " stopped attempt ", event.attempt.attempt)},
          actor);
    default:  // PAUSED, RELEASED
      break;
  }
  if (EndRequested(*job, Trainer::kDead, event.worker_id, actor)) return;
  // Given back unharmed, because the worker shuts down: for a while it gets nothing new.
  worker.closed_until_nanos = now_.monotonic_nanos + options_.lease_term_nanos;
  EndAttempt(*job, Trainer::kDead, event.worker_id);
  UpdateSlots(event.worker_id);
  Requeue(
      *job,
      {JobState::kQueued, JobReason::kWorkerStopped,
       absl::StrCat("worker ", event.worker_id, " gave attempt ", event.attempt.attempt, " back"),
       absl::StrCat("worker:", event.worker_id)},
      /*delay_nanos=*/0, actor);
}

void Scheduler::Machine::AttemptSucceeded(LiveJob& job, const AttemptReported& event,
                                          absl::string_view actor) {
  JobRecord& record = job.record;
  WorkerProved(event.worker_id);
  const bool stopped_for_time = record.reason == JobReason::kRunTimeExceeded;
  if (record.state == JobState::kStopping && !stopped_for_time) {
    EndRequested(job, Trainer::kDead, event.worker_id, actor);
    return;
  }
  if (record.placement.front().worker_id != event.worker_id) {
    // The leader says when the attempt has succeeded.
    return EndShare(job, event.worker_id, Trainer::kDead);
  }
  if (record.state == JobState::kStarting) {
    // Its report of TRAINING was lost on the way.
    Transition(job, {JobState::kRunning, JobReason::kTrainerStarted, "training"}, actor);
  }
  EndAttempt(job, Trainer::kDead, event.worker_id);
  record.result = event.result;
  Transition(job,
             {JobState::kSucceeded, JobReason::kCompleted,
              absl::StrCat("completed ", event.result->steps, " steps")},
             actor);
}

std::optional<Scheduler::Machine::Change> Scheduler::Machine::LastFailure(
    const JobRecord& record, FailureClass failure_class) const {
  const int32_t failures = record.failures_without_progress;
  const int32_t of_class = record.class_failures[static_cast<int>(failure_class)];
  if (failure_class == FailureClass::kUser) {
    return Change{JobState::kFailed, JobReason::kTrainerFailed, ""};
  }
  if (of_class > BudgetOf(failure_class)) {
    return Change{
        JobState::kFailed, JobReason::kRestartBudgetExhausted,
        absl::StrCat("; ", of_class, " failures of class ", FailureClassName(failure_class),
                     " without a new checkpoint, ", BudgetOf(failure_class), " allowed")};
  }
  if (failures > record.document->max_failures) {
    return Change{JobState::kFailed, JobReason::kNoProgress,
                  absl::StrCat("; ", failures, " failures without a new checkpoint, ",
                               record.document->max_failures, " allowed")};
  }
  if (record.failed_workers.size() >= options_.poison_workers &&
      !NIBBLE_PLANTED("poison_spreads")) {
    return Change{JobState::kFailed, JobReason::kPoisonJob,
                  absl::StrCat("; it failed on ", record.failed_workers.size(),
                               " workers without a new checkpoint")};
  }
  return std::nullopt;
}

void Scheduler::Machine::AttemptFailed(LiveJob& job, const AttemptReported& event,
                                       absl::string_view actor) {
  JobRecord& record = job.record;
  const FailureClass failure_class = event.failure_class;
  record.last_failure = failure_class;
  Change change{JobState::kQueued, JobReason::kTrainerFailed,
                absl::StrCat("attempt ", event.attempt.attempt, " failed (",
                             FailureClassName(failure_class), "): ", Shorten(event.message)),
                absl::StrCat("failure:", FailureClassName(failure_class))};
  if (failure_class == FailureClass::kPreempted) {
    return LoseAttempt(job, Trainer::kDead, event.worker_id, std::move(change), actor);
  }
  ++record.failures;
  const int32_t failures = ++record.failures_without_progress;
  if (NIBBLE_PLANTED("retry_without_budget")) record.failures_without_progress = 1;
  record.class_failures.resize(kFailureClasses);
  const int32_t of_class = ++record.class_failures[static_cast<int>(failure_class)];
  if (!SpeaksOfJob(failure_class)) {
    CountAgainstWorker(event.worker_id, record.job_id);
  }
  auto& failed = record.failed_workers;
  failed.erase(std::remove(failed.begin(), failed.end(), event.worker_id), failed.end());
  failed.push_back(event.worker_id);
  if (EndRequested(job, Trainer::kDead, event.worker_id, actor)) return;
  EndAttempt(job, Trainer::kDead, event.worker_id);
  if (std::optional<Change> last = LastFailure(record, failure_class)) {
    last->message = absl::StrCat(change.message, last->message);
    last->cause = change.cause;
    return Transition(job, *std::move(last), actor);
  }
  const int64_t initial = InitialBackoff(failure_class, options_.backoff_initial_nanos);
  Requeue(job, std::move(change), BackoffNanos(std::max(failures, of_class), initial), actor);
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
  const size_t keep = std::max<int32_t>(
      job->record.document->keep_checkpoints - (NIBBLE_PLANTED("one_too_few_retained") ? 1 : 0), 1);
  while (kept.size() > keep) {
    transaction_.removed_checkpoints.push_back(kept.back());
    kept.pop_back();
  }
  if (kept.front().step > job->record.committed_step) {
    job->record.committed_step = kept.front().step;
    job->record.failures_without_progress = 0;
    job->record.losses_without_progress = 0;
    job->record.class_failures.clear();
    job->record.failed_workers.clear();
    WorkerProved(event.worker_id);
  }
  job->record.commit_clock_nanos = clock_nanos();
  Touch(*job);
  changed_workers_.insert(event.worker_id);  // resume_from has changed
  reply_.answer = CheckpointAnswer{kept};
}

}  // namespace nibble::scheduler
