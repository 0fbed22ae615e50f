#include "server/scheduler/types.h"

namespace nibble::scheduler {

absl::string_view JobStateName(JobState state) {
  switch (state) {
    case JobState::kUnspecified:
      return "JOB_STATE_UNSPECIFIED";
    case JobState::kQueued:
      return "QUEUED";
    case JobState::kStarting:
      return "STARTING";
    case JobState::kRunning:
      return "RUNNING";
    case JobState::kPausing:
      return "PAUSING";
    case JobState::kPaused:
      return "PAUSED";
    case JobState::kStopping:
      return "STOPPING";
    case JobState::kSucceeded:
      return "SUCCEEDED";
    case JobState::kFailed:
      return "FAILED";
    case JobState::kCancelled:
      return "CANCELLED";
  }
  return "UNKNOWN";
}

absl::string_view JobReasonName(JobReason reason) {
  switch (reason) {
    case JobReason::kUnspecified:
      return "JOB_REASON_UNSPECIFIED";
    case JobReason::kSubmitted:
      return "SUBMITTED";
    case JobReason::kWaitingForSlots:
      return "WAITING_FOR_SLOTS";
    case JobReason::kSlotsAssigned:
      return "SLOTS_ASSIGNED";
    case JobReason::kTrainerStarted:
      return "TRAINER_STARTED";
    case JobReason::kPauseRequested:
      return "PAUSE_REQUESTED";
    case JobReason::kResumeRequested:
      return "RESUME_REQUESTED";
    case JobReason::kCancelRequested:
      return "CANCEL_REQUESTED";
    case JobReason::kCompleted:
      return "COMPLETED";
    case JobReason::kLeaseExpired:
      return "LEASE_EXPIRED";
    case JobReason::kWorkerLost:
      return "WORKER_LOST";
    case JobReason::kTrainerFailed:
      return "TRAINER_FAILED";
    case JobReason::kRestartBudgetExhausted:
      return "RESTART_BUDGET_EXHAUSTED";
    case JobReason::kWorkerStopped:
      return "WORKER_STOPPED";
    case JobReason::kPreempted:
      return "JOB_PREEMPTED";
    case JobReason::kNoProgress:
      return "NO_PROGRESS";
    case JobReason::kPoisonJob:
      return "POISON_JOB";
    case JobReason::kRunTimeExceeded:
      return "RUN_TIME_EXCEEDED";
    case JobReason::kWorkerDrained:
      return "WORKER_DRAINED";
    case JobReason::kWorkerUndrained:
      return "WORKER_UNDRAINED";
    case JobReason::kUpdated:
      return "UPDATED";
    case JobReason::kGuardTripped:
      return "GUARD_TRIPPED";
    case JobReason::kTrainerHung:
      return "TRAINER_HUNG";
    case JobReason::kTrainerRestarted:
      return "TRAINER_RESTARTED";
    case JobReason::kCheckpointQuarantined:
      return "CHECKPOINT_QUARANTINED";
    case JobReason::kSnapshotRefused:
      return "SNAPSHOT_REFUSED";
  }
  return "UNKNOWN";
}

absl::string_view FailureClassName(FailureClass failure_class) {
  switch (failure_class) {
    case FailureClass::kUnspecified:
      return "FAILURE_CLASS_UNSPECIFIED";
    case FailureClass::kUser:
      return "USER";
    case FailureClass::kData:
      return "DATA";
    case FailureClass::kNumeric:
      return "NUMERIC";
    case FailureClass::kOutOfMemory:
      return "OUT_OF_MEMORY";
    case FailureClass::kHardware:
      return "HARDWARE";
    case FailureClass::kNetwork:
      return "NETWORK";
    case FailureClass::kPreempted:
      return "PREEMPTED";
    case FailureClass::kControl:
      return "CONTROL";
  }
  return "UNKNOWN";
}

absl::string_view AttemptStatusName(AttemptStatus status) {
  switch (status) {
    case AttemptStatus::kUnspecified:
      return "STATUS_UNSPECIFIED";
    case AttemptStatus::kTraining:
      return "TRAINING";
    case AttemptStatus::kPaused:
      return "PAUSED";
    case AttemptStatus::kStopped:
      return "STOPPED";
    case AttemptStatus::kSucceeded:
      return "SUCCEEDED";
    case AttemptStatus::kFailed:
      return "FAILED";
    case AttemptStatus::kReleased:
      return "RELEASED";
    case AttemptStatus::kGuardPaused:
      return "GUARD_PAUSED";
    case AttemptStatus::kNoted:
      return "NOTED";
  }
  return "UNKNOWN";
}

bool IsTerminal(JobState state) {
  return state == JobState::kSucceeded || state == JobState::kFailed ||
         state == JobState::kCancelled;
}

bool HasLiveAttempt(JobState state) {
  return state == JobState::kStarting || state == JobState::kRunning ||
         state == JobState::kPausing || state == JobState::kStopping;
}

bool IsTransition(JobState from, JobState to) {
  switch (from) {
    case JobState::kUnspecified:
      return to == JobState::kQueued;
    case JobState::kQueued:
      return to == JobState::kStarting || to == JobState::kPaused || to == JobState::kCancelled;
    case JobState::kStarting:
      return to == JobState::kRunning || to == JobState::kQueued || to == JobState::kPausing ||
             to == JobState::kStopping || to == JobState::kFailed;
    case JobState::kRunning:
      return to == JobState::kSucceeded || to == JobState::kFailed || to == JobState::kQueued ||
             to == JobState::kPausing || to == JobState::kStopping;
    case JobState::kPausing:
      return to == JobState::kPaused || to == JobState::kStopping || to == JobState::kSucceeded ||
             to == JobState::kQueued;
    case JobState::kPaused:
      return to == JobState::kQueued || to == JobState::kCancelled;
    case JobState::kStopping:
      return IsTerminal(to);
    case JobState::kSucceeded:
    case JobState::kFailed:
    case JobState::kCancelled:
      return false;
  }
  return false;
}

bool operator==(const JobRecord& a, const JobRecord& b) {
  const bool same_document =
      a.document == b.document ||
      (a.document != nullptr && b.document != nullptr && *a.document == *b.document);
  const auto scheduling = [](const JobRecord& j) {
    return std::tie(j.class_failures, j.failed_workers, j.preemptions, j.retry_delay_nanos,
                    j.queued_clock_nanos, j.attempt_clock_nanos, j.commit_clock_nanos);
  };
  const auto rest = [](const JobRecord& j) {
    return std::tie(j.job_id, j.submit_sequence, j.state, j.reason, j.reason_message, j.attempt,
                    j.workers, j.failures, j.failures_without_progress, j.losses_without_progress,
                    j.last_failure, j.reported_attempt, j.reported_status, j.committed_step,
                    j.result, j.create_micros, j.start_micros, j.end_micros, j.update_micros,
                    j.revision);
  };
  return same_document && a.placement == b.placement && rest(a) == rest(b) &&
         scheduling(a) == scheduling(b);
}

}  // namespace nibble::scheduler
