// Everything that can happen to the scheduler. Values that come from outside were checked for form
// (labels, lengths, finite numbers) before; the scheduler checks what depends on its state.
#ifndef SERVER_SCHEDULER_EVENTS_H_
#define SERVER_SCHEDULER_EVENTS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/scheduler/types.h"

namespace nibble::scheduler {

// First event of every scheduler, once: what the store holds. Every live attempt gets one full
// lease term from now, and waits for its worker to register.
struct Recovered {
  struct Job {
    JobRecord record;                           // not terminal
    std::vector<CheckpointRecord> checkpoints;  // any order
  };
  // Taken out from the front, so that memory comes back while the scheduler grows.
  std::deque<Job> jobs;
  std::vector<PurgeRecord> purges;
  std::vector<WorkerRecord> workers;
  std::vector<ProjectUsage> usages;
  int64_t last_event_id = 0;
  int64_t last_submit_sequence = 0;
};

// Answer: the job (JobRecord). A key that a live job was submitted with, or `stored_key`, answers
// with that job, or ALREADY_EXISTS (kRequestIdReused) where the fingerprint differs.
struct JobSubmitted {
  std::string job_id;  // new and never used before
  std::shared_ptr<const JobDocument> document;
  std::string actor;
  // The store's row for document->request_key, where there is one. Event.stored_job then is that
  // job's row where the job is not live.
  std::optional<IdempotencyRecord> stored_key;
};

// Answers: the job (JobRecord), or NOT_FOUND (kJobNotFound), or FAILED_PRECONDITION (kWrongState).
struct CancelRequested {
  std::string job_id;
  std::string actor;
};
struct PauseRequested {
  std::string job_id;
  std::string actor;
};
struct ResumeRequested {
  std::string job_id;
  std::string actor;
};
// Changes what is given. Answer as above; ABORTED (kEtagMismatch) where `revision` is not 0 and not
// the job's.
struct UpdateRequested {
  std::string job_id;
  std::optional<int32_t> priority;
  std::optional<std::map<std::string, std::string>> labels;
  int64_t revision = 0;
  std::string actor;
};
// A drained worker takes no new work; what runs there goes on, or with `evict` is paused with a
// checkpoint and queued again. Answer: the worker (WorkerInfo), or NOT_FOUND (kWorkerNotFound).
struct DrainRequested {
  std::string worker_id;
  std::string reason;
  bool evict = false;
  std::string actor;
};
struct UndrainRequested {
  std::string worker_id;
  std::string actor;
};
// Answer: std::monostate.
struct DeleteRequested {
  std::string job_id;
  std::string actor;
};

// Answer: Registration. INVALID_ARGUMENT for slots outside 0..kMaxSlotsOfWorker.
struct WorkerRegistered {
  std::string worker_id;
  std::string incarnation;
  std::string host;
  std::string device_kind;
  std::string device_name;
  int32_t slots = 0;
  std::string version;
  std::vector<AttemptId> running;
  int64_t slot_memory_bytes = 0;  // of one slot's device; 0 for unknown
  std::map<std::string, std::string> labels = {};
};

// From here on: NOT_FOUND (kUnknownWorker) where the worker must register first, and
// FAILED_PRECONDITION (kStaleIncarnation) where a newer incarnation has registered.

// Answer: Renewal.
struct LeasesRenewed {
  std::string worker_id;
  std::string incarnation;
  // Trainers alive on the worker, and assignments it is about to start.
  std::vector<AttemptId> attempts;
  std::vector<std::string> purged_job_ids;
};

// Answer: std::monostate, or FAILED_PRECONDITION (kStaleAttempt).
struct AttemptReported {
  std::string worker_id;
  std::string incarnation;
  AttemptId attempt;
  AttemptStatus status = AttemptStatus::kUnspecified;
  FailureClass failure_class = FailureClass::kUnspecified;  // of kFailed
  std::string message;
  std::optional<TrainingResult> result;  // of kSucceeded
  // Of kNoted and kGuardPaused: as in worker_service.proto. One of a sequence that does not rise
  // within the attempt is answered and does nothing.
  JobReason reason = JobReason::kUnspecified;
  std::string cause = {};
  int64_t note_sequence = 0;
  int64_t damaged_attempt = 0;  // of kCheckpointQuarantined: which checkpoint
  int64_t damaged_step = 0;
};

// Compare-and-set on the epoch. Answer: CheckpointAnswer, or FAILED_PRECONDITION (kStaleAttempt, or
// kCheckpointOrder for a step not beyond the attempt's last), or INVALID_ARGUMENT.
struct CheckpointCommitted {
  std::string worker_id;
  std::string incarnation;
  CheckpointRecord checkpoint;  // create_micros and worker_id are filled in
};

// The daemon's own records of a deleted job are gone. Answer: none.
struct MetricsPurged {
  std::string job_id;
};

// Time passes; at least every second. Leases expire and silent workers become unreachable only
// here. Answer: none.
struct Tick {};

using EventBody = std::variant<Recovered, JobSubmitted, CancelRequested, PauseRequested,
                               ResumeRequested, DeleteRequested, WorkerRegistered, LeasesRenewed,
                               AttemptReported, CheckpointCommitted, MetricsPurged, Tick,
                               UpdateRequested, DrainRequested, UndrainRequested>;

struct Event {
  // Read when the event is handed to Step, not when it arrived. Monotonic time never goes back.
  Time now;
  // Comes back in the Reply; 0 where nobody waits.
  uint64_t request_token = 0;
  EventBody body;
  // The stored row of the job that the body names, where Scheduler::FindJob does not know it; null
  // where the store has none either. Ended jobs live in the store alone.
  std::shared_ptr<const JobRecord> stored_job;
  // Any 64 random bits: for the jitter of back-off.
  uint64_t random = 0;
};

// The job that an event names; empty where it names none.
absl::string_view JobIdOf(const EventBody& body);

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_EVENTS_H_
