// Inside of the Scheduler; only the scheduler's sources include this. One method per event, in
// files by who sends it: user_events.cc, workers.cc, worker_health.cc, attempt_events.cc,
// time_events.cc. What follows from events: machine.cc and schedule.cc.
#ifndef SERVER_SCHEDULER_MACHINE_H_
#define SERVER_SCHEDULER_MACHINE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/scheduler/id_table.h"
#include "server/scheduler/lease_table.h"
#include "server/scheduler/resource_tracker.h"
#include "server/scheduler/run_queue.h"
#include "server/scheduler/scheduler.h"

namespace nibble::scheduler {

class Scheduler::Machine {
 public:
  explicit Machine(SchedulerOptions options);

  std::vector<Effect> Step(Event event);

  const JobRecord* FindJob(absl::string_view job_id) const;
  Error CheckAttempt(absl::string_view worker_id, absl::string_view incarnation,
                     const AttemptId& attempt) const;
  std::vector<WorkerInfo> Workers() const;
  SchedulerStats Stats() const;
  std::vector<ProjectInfo> Projects() const;
  std::optional<Explanation> Explain(absl::string_view job_id, Time now) const;
  const std::optional<Reservation>& reservation() const { return reservation_; }
  // Time for which daemons have run on this state.
  int64_t clock_nanos() const { return now_.monotonic_nanos + clock_offset_nanos_; }
  const ResourceTracker& resources() const { return tracker_; }
  std::vector<const JobRecord*> LiveJobs() const;

 private:
  struct LiveJob {
    JobRecord record;
    std::vector<CheckpointRecord> checkpoints;  // newest first
    int project = 0;
    // It pauses by this monotonic time or is stopped; 0 for no deadline.
    int64_t pause_deadline_nanos = 0;
    // The deadline has passed.
    bool pause_overdue = false;
    // Of the live attempt's newest note.
    AttemptId noted;
    int64_t note_sequence = 0;
  };

  struct JobIdOf {
    absl::string_view operator()(const LiveJob& job) const { return job.record.job_id; }
  };
  struct RequestKeyOf {
    absl::string_view operator()(const LiveJob& job) const {
      return job.record.document->request_key;
    }
  };

  struct WorkerState {
    WorkerInfo info;  // slots as declared; slots_used, job_ids and online are filled in on reading
    // False for one that only recovered jobs name: it has to register.
    bool registered = false;
    bool online = false;
    int64_t last_seen_nanos = 0;
    // No new work before this: it is giving attempts back.
    int64_t closed_until_nanos = 0;
    // Incarnations that were replaced, newest last.
    std::vector<std::string> superseded;
    // Attempts that are not live any more, whose trainers are not known to be dead: they keep their
    // slots until the worker stops listing them.
    std::set<AttemptId> zombies;
  };

  // Whether a trainer that ends its attempt is known to be dead.
  enum class Trainer { kDead, kUnknown };

  // How a job's row should change; for Transition.
  struct Change {
    JobState state;
    JobReason reason;
    std::string message;
    std::string cause = {};
  };

  void Handle(Recovered& event);  // takes the rows out of it
  void Handle(const JobSubmitted& event);
  void Handle(const CancelRequested& event);
  void Handle(const PauseRequested& event);
  void Handle(const ResumeRequested& event);
  void Handle(const DeleteRequested& event);
  void Handle(const WorkerRegistered& event);
  void Handle(const LeasesRenewed& event);
  void Handle(const AttemptReported& event);
  void Handle(const CheckpointCommitted& event);
  void Handle(const MetricsPurged& event);
  void Handle(const Tick& event);
  void Handle(const UpdateRequested& event);
  void Handle(const DrainRequested& event);
  void Handle(const UndrainRequested& event);

  // The lease of an attempt on one of its workers.
  static std::string LeaseKey(const std::string& job_id, const std::string& worker_id) {
    return job_id + "/" + worker_id;
  }
  // The worker's part of the live attempt; null where it has none.
  static WorkerShare* ShareOn(JobRecord& record, absl::string_view worker_id);

  // machine.cc: the moves that events are made of.
  LiveJob* FindLive(absl::string_view job_id);
  // Null, and an error reply set, where the job is not live.
  LiveJob* FindLiveOrFail(const std::string& job_id, absl::string_view operation);
  void Transition(LiveJob& job, Change change, absl::string_view actor);
  // An event of the job that changes no state; `change.state` is not used.
  void Note(LiveJob& job, Change change, absl::string_view actor);
  void AddEvent(const JobRecord& record, JobState before, Change change, absl::string_view actor);
  // The live attempt holds the worker's slots no longer; where the trainer may live they stay
  // taken.
  void EndShare(LiveJob& job, const std::string& worker_id, Trainer trainer);
  // The live attempt ends as a whole. What is known of the trainer is that of `reporter`, all other
  // workers' trainers may live.
  void EndAttempt(LiveJob& job, Trainer trainer, const std::string& reporter);
  void Requeue(LiveJob& job, Change change, int64_t delay_nanos, absl::string_view actor);
  // The attempt was lost, on this worker, without fault of the job.
  void LoseAttempt(LiveJob& job, Trainer trainer, const std::string& worker_id, Change change,
                   absl::string_view actor);
  // The worker's part of an attempt that was to pause or stop has ended; after the last one, what
  // it was to end for comes about. False for other states.
  bool EndRequested(LiveJob& job, Trainer trainer, const std::string& worker_id,
                    absl::string_view actor);
  int64_t BackoffNanos(int32_t times, int64_t initial_nanos) const;
  void Touch(const LiveJob& job) { changed_jobs_.insert(job.record.job_id); }
  void AddToQueue(const LiveJob& job, int64_t not_before_nanos);
  void RemoveFromQueue(const std::string& job_id);
  // Tells a job that runs to checkpoint and give its slots back.
  void Evict(LiveJob& job, Change change, absl::string_view actor);

  // schedule.cc
  // Gives slots to queued jobs until no more can start.
  void Schedule();
  void StartAttempt(LiveJob& job, std::vector<WorkerShare> placement);
  // The first shape, in the order of starting, that is not known to be blocked; null for none.
  RunQueue::Shape* NextShape();
  // What matching workers that take new work have, whether or not it is free.
  struct Capacity {
    int32_t widest = 0;  // slots of the largest
    int64_t total = 0;
    std::vector<std::string> avoided;  // not among them
    bool Fits(int32_t slots) const { return slots <= total; }
    bool Spreads(int32_t slots) const { return slots > widest; }
  };
  const Capacity& CapacityFor(const QueuedJob& job) const;
  Capacity MeasureCapacity(const QueuedJob& job, std::vector<std::string> avoided) const;
  bool Matches(const WorkerState& worker, const QueuedJob& job, const Capacity& capacity) const;
  // Of `free` slots of the worker, those that the reservation leaves to the job.
  int32_t Unreserved(const std::string& worker_id, const QueuedJob& job, int32_t free) const;
  // Where it can start now; empty for nowhere.
  std::vector<WorkerShare> Place(const QueuedJob& job) const;
  std::vector<WorkerOutlook> Outlooks(const QueuedJob& job, bool only_ending) const;
  // When a holder of slots ends at the latest, on the scheduler's clock.
  int64_t EndOf(const AttemptId& attempt) const;
  // A job that does not fit is the head of the queue, or is not.
  void ReserveFor(const QueuedJob& job);
  bool Displaces(const QueuedJob& job) const;
  bool MayPreempt(const QueuedJob& job) const;
  bool IsVictimOf(const LiveJob& victim, const QueuedJob& job) const;
  bool Preempt(const QueuedJob& job);
  void DropReservation();
  void StartReserved();
  void ReviewReservation();
  void CountRunning(const LiveJob& job, int change);
  // Its number; makes room for its count of jobs.
  int ProjectOf(const JobDocument& document);

  // explain.cc
  // Jobs that may start and come before it; *first is the first of them.
  int64_t JobsAhead(const QueuedJob& job, std::string* first) const;
  bool ExplainWorkers(const QueuedJob& job, std::vector<BlockingReason>& reasons) const;
  void ExplainSlots(const QueuedJob& job, Explanation& explanation) const;

  // workers.cc
  Error CheckWorker(absl::string_view worker_id, absl::string_view incarnation) const;
  void Seen(WorkerState& worker);
  bool IsOpen(const WorkerState& worker) const;
  // Declared slots, or what is held where that is more; open where it takes work.
  void UpdateSlots(const std::string& worker_id);
  // A trainer that runs though its attempt is not live: it holds its slots until it is dead.
  void AddZombie(WorkerState& worker, const AttemptId& attempt);
  void FreeZombie(WorkerState& worker, const AttemptId& attempt);
  void FreeZombiesNotIn(WorkerState& worker, const std::set<AttemptId>& alive);
  AssignmentsChanged AssignmentsOf(const std::string& worker_id);
  void ReleaseUnlisted(WorkerState& worker, const WorkerRegistered& event,
                       const std::set<AttemptId>& running);

  // attempt_events.cc
  // The job whose live attempt this is, held by this worker; else null.
  LiveJob* FindAttempt(const std::string& worker_id, const AttemptId& attempt);
  void AttemptFailed(LiveJob& job, const AttemptReported& event, absl::string_view actor);
  // Why the failure is the job's last; absent where it may try again.
  std::optional<Change> LastFailure(const JobRecord& record, FailureClass failure_class) const;
  void AttemptSucceeded(LiveJob& job, const AttemptReported& event, absl::string_view actor);
  bool IsRepeatedReport(const AttemptReported& event);
  static absl::string_view Shorten(absl::string_view message);

  // safety_events.cc
  void AttemptNoted(LiveJob& job, const AttemptReported& event, absl::string_view actor);
  // It is nobody's to resume from any more, unless it is the last: a job never silently begins
  // again at step 0.
  void Quarantine(LiveJob& job, const AttemptReported& event);
  void PauseByGuard(LiveJob& job, const AttemptReported& event, absl::string_view actor);

  WorkerInfo InfoOf(const std::string& worker_id) const;

  // worker_health.cc
  void PersistWorker(const std::string& worker_id);
  void AddWorkerEvent(const std::string& worker_id, JobReason reason, std::string message,
                      absl::string_view actor);
  void CountAgainstWorker(const std::string& worker_id, const std::string& job_id);
  void WorkerProved(const std::string& worker_id);
  void Drain(const std::string& worker_id, const std::string& reason, absl::string_view actor);

  // time_events.cc
  void RecoverJob(Recovered::Job row);
  void EndOverdue();
  void PersistUsage();
  void GrantTermAfterStall();
  void ExpireLeases();
  void WatchWorkers();

  void Fail(absl::StatusCode code, ErrorReason reason, std::string message);
  void AnswerWithJob(const std::string& job_id) { answer_job_id_ = job_id; }
  std::vector<Effect> Flush(uint64_t request_token);
  void FlushJobs(std::vector<JobChanged>& changed);

  const SchedulerOptions options_;

  bool recovered_ = false;
  IdTable<std::unique_ptr<LiveJob>, JobIdOf> jobs_;
  IdTable<LiveJob*, RequestKeyOf> job_of_key_;  // of live jobs
  std::map<std::string, WorkerState, std::less<>> workers_;
  ResourceTracker tracker_;
  LeaseTable leases_;
  RunQueue queue_;
  FairShare shares_;
  std::vector<int64_t> jobs_of_project_;  // unfinished
  std::optional<Reservation> reservation_;
  // Rises when slots may have come free for somebody, or are kept for somebody no longer.
  uint64_t generation_ = 1;
  mutable std::map<std::pair<WorkerConstraints, std::vector<std::string>>, Capacity> capacities_;
  // RUNNING and STARTING attempts that may be preempted: (project, priority) -> how many.
  std::map<std::pair<int, int32_t>, int> running_by_priority_;
  std::set<std::pair<int64_t, std::string>> run_deadlines_;    // scheduler's clock
  std::set<std::pair<int64_t, std::string>> pause_deadlines_;  // monotonic
  std::map<std::string, WorkerRecord, std::less<>> worker_records_;
  int64_t clock_offset_nanos_ = 0;
  int64_t next_usage_nanos_ = 0;
  int64_t next_preempt_nanos_ = 0;
  // Some job may preempt others once those have had their guaranteed time.
  bool preempt_later_ = false;
  // The generation at which the reservation's job was found not to fit.
  uint64_t reserved_blocked_at_ = 0;
  int64_t next_review_nanos_ = 0;
  std::map<std::string, std::set<std::string>> purges_;  // worker_id -> job_ids
  int64_t last_event_id_ = 0;
  int64_t last_submit_sequence_ = 0;
  int64_t last_tick_nanos_ = 0;
  int64_t last_hold_alert_nanos_ = 0;
  bool hold_alerted_ = false;
  SchedulerStats stats_;

  // Of the step at hand.
  Time now_;
  uint64_t random_ = 0;
  std::shared_ptr<const JobRecord> stored_job_;
  Transaction transaction_;
  std::set<std::string> changed_jobs_;
  std::set<std::string> changed_workers_;
  std::vector<JobChanged> deletions_;
  std::vector<PurgeMetrics> metric_purges_;
  std::vector<Alert> alerts_;
  Reply reply_;
  std::string answer_job_id_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_MACHINE_H_
