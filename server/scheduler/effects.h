// Everything that the scheduler wants done. Effects of one step are carried out in their order; a
// Transaction comes first, and must be durable before any later effect of its step happens.
#ifndef SERVER_SCHEDULER_EFFECTS_H_
#define SERVER_SCHEDULER_EFFECTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "server/scheduler/types.h"

namespace nibble::scheduler {

// All or nothing. Applied in the order of the members.
struct Transaction {
  // Whole rows; the newest state of each job changed.
  std::vector<JobRecord> jobs;
  std::vector<JobEventRecord> events;
  // By (job, step); an equal key replaces.
  std::vector<CheckpointRecord> checkpoints;
  // Rows to remove: only job_id and step count.
  std::vector<CheckpointRecord> removed_checkpoints;
  std::vector<IdempotencyRecord> keys;
  // The job's row, events, checkpoints and key go.
  std::vector<std::string> deleted_jobs;
  std::vector<PurgeRecord> purges;
  std::vector<PurgeRecord> finished_purges;
  // Jobs whose JobDocument in `jobs` differs from the one stored.
  std::vector<std::string> updated_documents;
  // By worker_id, by project; an equal key replaces.
  std::vector<WorkerRecord> workers;
  std::vector<std::string> removed_workers;
  std::vector<ProjectUsage> usages;

  bool empty() const;
  // Makes this transaction do what it did and then what `later` does. For committing several steps
  // at once.
  void Append(Transaction later);
};

enum class AssignmentAction : int { kRun = 1, kPause = 2, kStop = 3 };  // as in the proto

struct Assignment {
  AttemptId attempt;
  AssignmentAction action = AssignmentAction::kRun;
  std::shared_ptr<const JobDocument> document;
  std::optional<CheckpointRecord> resume_from;
  // Older ones, newest first.
  std::vector<CheckpointRecord> fallbacks = {};
  // All workers of the attempt, its leader first.
  std::vector<WorkerShare> placement;
};

// The complete list of what the worker should hold from now on; it replaces every earlier one.
// Trainers not on it are to be killed.
struct AssignmentsChanged {
  std::string worker_id;
  std::vector<Assignment> assignments;
  std::vector<std::string> purge_job_ids;
};

// For watchers: the job as it now is.
struct JobChanged {
  JobRecord job;
  bool deleted = false;
};

// Remove the daemon's metrics and logs of a deleted job, then send MetricsPurged. Idempotent.
struct PurgeMetrics {
  std::string job_id;
};

enum class AlertKind {
  kMassExpiryHeld,  // R3: most leases would have expired at once; none did
  kDaemonStalled,   // no Tick for long; every lease got a full term
  kOverAllocated,   // a worker came back with fewer slots than its attempts hold
  kLemonWorker,     // jobs of all kinds fail on one worker
};

struct Alert {
  AlertKind kind = AlertKind::kMassExpiryHeld;
  std::string message;
};

enum class ErrorReason {
  kNone,
  kJobNotFound,
  kWrongState,
  kStaleAttempt,
  kUnknownWorker,
  kStaleIncarnation,
  kRequestIdReused,
  kTooManyJobs,
  kTooManyWorkers,
  kCheckpointOrder,
  kInvalidArgument,
  kJobIdTaken,
  kEtagMismatch,
  kWorkerNotFound,
};

// ErrorInfo.reason: "STALE_ATTEMPT".
absl::string_view ErrorReasonName(ErrorReason reason);

struct Error {
  absl::StatusCode code = absl::StatusCode::kOk;
  ErrorReason reason = ErrorReason::kNone;
  std::string message;

  bool ok() const { return code == absl::StatusCode::kOk; }
};

struct Registration {
  int64_t lease_term_ms = 0;
  std::vector<AttemptId> adopted;
};

struct Renewal {
  int64_t lease_term_ms = 0;
  std::vector<AttemptId> renewed;
  std::vector<AttemptId> stale;
};

// What is known of a worker; nibble.v1.Worker.
struct WorkerInfo {
  std::string worker_id;
  std::string incarnation;
  std::string host;
  std::string device_kind;
  std::string device_name;
  std::string version;
  int32_t slots = 0;
  int32_t slots_used = 0;
  // Heard of within a lease term.
  bool online = false;
  // Jobs whose attempts hold slots here.
  std::vector<std::string> job_ids;
  int64_t last_seen_micros = 0;
  int64_t slot_memory_bytes = 0;
  std::map<std::string, std::string> labels;
  bool drained = false;
  std::string drain_reason;
};

struct CheckpointAnswer {
  std::vector<CheckpointRecord> retained;  // newest first
};

// One for each event with a request_token.
struct Reply {
  uint64_t request_token = 0;
  Error error;
  // Which one: see the event. std::monostate with an error.
  std::variant<std::monostate, JobRecord, Registration, Renewal, CheckpointAnswer, WorkerInfo>
      answer;
};

using Effect =
    std::variant<Transaction, AssignmentsChanged, JobChanged, PurgeMetrics, Alert, Reply>;

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_EFFECTS_H_
