// The records of the control plane: jobs, attempts, checkpoints, audit events. Plain values that
// the scheduler computes, the store keeps and the RPC layer shows. Numbers of enumerators equal
// those of proto/nibble/v1/job.proto, and are stored: never renumber.
#ifndef SERVER_SCHEDULER_TYPES_H_
#define SERVER_SCHEDULER_TYPES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/scheduler/side_records.h"

namespace nibble::scheduler {

// QUEUED -> STARTING -> RUNNING -> SUCCEEDED | FAILED
// STARTING | RUNNING -> QUEUED (attempt lost, given back, or failed with budget left)
// STARTING -> FAILED (no budget left)
// STARTING | RUNNING -> PAUSING -> PAUSED -> QUEUED (resumed)
// PAUSING -> SUCCEEDED (it finished before the pause reached it)
// PAUSING -> QUEUED (preempted, or its worker is drained)
// QUEUED -> PAUSED
// QUEUED | PAUSED -> CANCELLED; STARTING | RUNNING | PAUSING -> STOPPING -> CANCELLED
// STOPPING -> FAILED | SUCCEEDED (its run time was over)
enum class JobState : int {
  kUnspecified = 0,
  kQueued = 1,
  kStarting = 2,
  kRunning = 3,
  kPausing = 4,
  kPaused = 5,
  kStopping = 6,
  kSucceeded = 7,
  kFailed = 8,
  kCancelled = 9,
};

enum class JobReason : int {
  kUnspecified = 0,
  kSubmitted = 1,
  kWaitingForSlots = 2,
  kSlotsAssigned = 3,
  kTrainerStarted = 4,
  kPauseRequested = 5,
  kResumeRequested = 6,
  kCancelRequested = 7,
  kCompleted = 8,
  kLeaseExpired = 9,
  kWorkerLost = 10,
  kTrainerFailed = 11,
  kRestartBudgetExhausted = 12,
  kWorkerStopped = 13,
  kPreempted = 14,
  kNoProgress = 15,
  kPoisonJob = 16,
  kRunTimeExceeded = 17,
  kWorkerDrained = 18,
  kWorkerUndrained = 19,
  kUpdated = 20,
  kGuardTripped = 21,
  kTrainerHung = 22,
  kTrainerRestarted = 23,
  kCheckpointQuarantined = 24,
  kSnapshotRefused = 25,
};

enum class FailureClass : int {
  kUnspecified = 0,
  kUser = 1,
  kData = 2,
  kNumeric = 3,
  kOutOfMemory = 4,
  kHardware = 5,
  kNetwork = 6,
  kPreempted = 7,
  kControl = 8,
};
inline constexpr int kFailureClasses = 9;

// What a worker says of an attempt; ReportAttemptRequest.Status.
enum class AttemptStatus : int {
  kUnspecified = 0,
  kTraining = 1,
  kPaused = 2,
  kStopped = 3,
  kSucceeded = 4,
  kFailed = 5,
  kReleased = 6,
  kGuardPaused = 7,
  kNoted = 8,
};

// Names as in the proto: "QUEUED", "LEASE_EXPIRED". "UNKNOWN" for a number that is none.
absl::string_view JobStateName(JobState state);
absl::string_view JobReasonName(JobReason reason);
absl::string_view FailureClassName(FailureClass failure_class);
absl::string_view AttemptStatusName(AttemptStatus status);

// SUCCEEDED, FAILED, CANCELLED: never left.
bool IsTerminal(JobState state);
// STARTING, RUNNING, PAUSING, STOPPING: the job's newest attempt is live and holds slots.
bool HasLiveAttempt(JobState state);
// The table above.
bool IsTransition(JobState from, JobState to);

// Monotonic time decides; wall time is only shown.
struct Time {
  int64_t monotonic_nanos = 0;
  int64_t wall_micros = 0;
};

// One try to run a job. `attempt` counts from 1 and is the fencing epoch.
struct AttemptId {
  std::string job_id;
  int64_t attempt = 0;

  friend bool operator==(const AttemptId& a, const AttemptId& b) {
    return a.attempt == b.attempt && a.job_id == b.job_id;
  }
  friend bool operator<(const AttemptId& a, const AttemptId& b) {
    return std::tie(a.job_id, a.attempt) < std::tie(b.job_id, b.attempt);
  }
};

// nibble.v1.TrainingResult.
struct TrainingResult {
  int64_t steps = 0;
  int64_t tokens = 0;
  double train_loss = 0;
  double validation_loss = 0;
  double validation_bits_per_byte = 0;
  double tokens_per_second = 0;
  std::string digest;
  std::map<std::string, double> efficiency;  // as in job.proto

  friend bool operator==(const TrainingResult&, const TrainingResult&) = default;
};

// Which workers may run a job.
struct WorkerConstraints {
  std::string device_kind;            // empty for any
  int64_t min_slot_memory_bytes = 0;  // 0 for any
  std::map<std::string, std::string> labels;

  bool empty() const { return device_kind.empty() && min_slot_memory_bytes == 0 && labels.empty(); }
  friend bool operator==(const WorkerConstraints&, const WorkerConstraints&) = default;
  friend bool operator<(const WorkerConstraints& a, const WorkerConstraints& b) {
    return std::tie(a.device_kind, a.min_slot_memory_bytes, a.labels) <
           std::tie(b.device_kind, b.min_slot_memory_bytes, b.labels);
  }
};

inline constexpr char kDefaultProject[] = "default";

// What a submission fixed; UpdateRequested alone replaces it. Shared between copies of the record,
// so that a copy is cheap.
struct JobDocument {
  std::string name;
  std::map<std::string, std::string> labels;
  // Serialised nibble.v1.JobSpec (resolved) and nibble.v1.ResolvedPrecision; opaque here.
  std::string spec;
  std::string precision;
  int32_t priority = 0;
  int32_t slots = 1;
  int32_t max_failures = 3;
  int32_t keep_checkpoints = 1;
  int64_t total_steps = 0;
  int64_t parameters = 0;
  // Idempotency key of the submission and hash of what was submitted; both empty for none.
  std::string request_key;
  std::string fingerprint;
  std::string project = kDefaultProject;
  // Longest time that one attempt may hold slots; 0 for no bound.
  int64_t max_run_nanos = 0;
  bool preemptible = true;
  WorkerConstraints constraints;

  friend bool operator==(const JobDocument&, const JobDocument&) = default;
};

// Slots of one worker that the live attempt of a job holds.
struct WorkerShare {
  std::string worker_id;
  std::string incarnation;  // of the worker
  int32_t slots = 0;

  friend bool operator==(const WorkerShare&, const WorkerShare&) = default;
};

// One row of record per job. Members named _clock_nanos are on the scheduler's clock: the time for
// which daemons have run on this state directory, which goes on where the last one stopped.
struct JobRecord {
  std::string job_id;
  std::shared_ptr<const JobDocument> document;
  // Rises with every submission: the order of the queue and of lists.
  int64_t submit_sequence = 0;
  JobState state = JobState::kUnspecified;
  JobReason reason = JobReason::kUnspecified;
  std::string reason_message;
  // Newest attempt; 0 before the first.
  int64_t attempt = 0;
  // Where the live attempt runs, its leader first; empty while there is none. While it pauses or
  // stops: the workers that have yet to say that their trainer is dead.
  std::vector<WorkerShare> placement;
  // Every worker that ever held an attempt, in order of the first: where files of the job may lie.
  std::vector<std::string> workers;
  // Attempts that failed, all together.
  int32_t failures = 0;
  // Failed attempts, and attempts lost with their worker or lease, since the job last committed a
  // step beyond every earlier one. These are what the budgets bound.
  int32_t failures_without_progress = 0;
  int32_t losses_without_progress = 0;
  FailureClass last_failure = FailureClass::kUnspecified;
  // The newest attempt whose end was reported, and how: a repeated report is answered OK.
  int64_t reported_attempt = 0;
  AttemptStatus reported_status = AttemptStatus::kUnspecified;
  // Largest step ever committed.
  int64_t committed_step = 0;
  std::optional<TrainingResult> result;
  // Microseconds of wall time; 0 where it has not happened.
  int64_t create_micros = 0;
  int64_t start_micros = 0;  // first attempt began to train
  int64_t end_micros = 0;
  int64_t update_micros = 0;
  // Rises with every change of the record: the etag.
  int64_t revision = 0;
  // Failed attempts by FailureClass's number, and the workers they failed on (the newest last),
  // since the job last committed a step beyond every earlier one. The next attempt avoids these
  // where it can.
  std::vector<int32_t> class_failures;
  std::vector<std::string> failed_workers;
  int32_t preemptions = 0;
  // How long it has to wait in the queue before its next attempt, from its return to the queue.
  int64_t retry_delay_nanos = 0;
  int64_t queued_clock_nanos = 0;   // submitted: from here it ages
  int64_t attempt_clock_nanos = 0;  // the newest attempt got its slots
  int64_t commit_clock_nanos = 0;   // the newest checkpoint was committed

  // Worker of the live attempt's leader; empty while there is none.
  std::string worker_id() const { return placement.empty() ? "" : placement.front().worker_id; }
};

bool operator==(const JobRecord& a, const JobRecord& b);  // documents by value

// A committed checkpoint; nibble.v1.Checkpoint.
struct CheckpointRecord {
  std::string job_id;
  int64_t attempt = 0;
  int64_t step = 0;
  std::string path;
  std::string manifest_digest;
  int64_t size_bytes = 0;
  int64_t create_micros = 0;
  // Where it was written.
  std::string worker_id;

  friend bool operator==(const CheckpointRecord&, const CheckpointRecord&) = default;
};

// One change, for audit; nibble.v1.JobEvent. `before` equals `after` where something else changed.
struct JobEventRecord {
  int64_t event_id = 0;  // rising over all jobs
  std::string job_id;    // empty for an event of a worker
  int64_t attempt = 0;
  int64_t wall_micros = 0;
  std::string actor;  // "user", "scheduler", "worker:<id>"
  JobState before = JobState::kUnspecified;
  JobState after = JobState::kUnspecified;
  JobReason reason = JobReason::kUnspecified;
  std::string message;
  // What brought it about: "job:<id>", "worker:<id>", "failure:<class>"; empty for the actor alone.
  std::string cause;

  friend bool operator==(const JobEventRecord&, const JobEventRecord&) = default;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_TYPES_H_
