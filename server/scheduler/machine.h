// Inside of the Scheduler; only the scheduler's sources include this. One method per event, in
// files by who sends it: user_events.cc, worker_events.cc, attempt_events.cc, time_events.cc.
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
#include "server/scheduler/lease_table.h"
#include "server/scheduler/resource_tracker.h"
#include "server/scheduler/run_queue.h"
#include "server/scheduler/scheduler.h"

namespace nibble::scheduler {

class Scheduler::Machine {
 public:
  Machine(SchedulerOptions options, std::unique_ptr<SchedulingPolicy> policy);

  std::vector<Effect> Step(const Event& event);

  const JobRecord* FindJob(absl::string_view job_id) const;
  Error CheckAttempt(absl::string_view worker_id, absl::string_view incarnation,
                     const AttemptId& attempt) const;
  std::vector<WorkerInfo> Workers() const;
  SchedulerStats Stats() const;
  const ResourceTracker& resources() const { return tracker_; }
  std::vector<const JobRecord*> LiveJobs() const;

 private:
  struct LiveJob {
    JobRecord record;
    std::vector<CheckpointRecord> checkpoints;  // newest first
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
  };

  void Handle(const Recovered& event);
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

  // machine.cc: the moves that events are made of.
  LiveJob* FindLive(absl::string_view job_id);
  // Null, and an error reply set, where the job is not live.
  LiveJob* FindLiveOrFail(const std::string& job_id, absl::string_view operation);
  void Transition(LiveJob& job, Change change, absl::string_view actor);
  // The live attempt ends: lease and worker go, slots too where the trainer is dead.
  void EndAttempt(LiveJob& job, Trainer trainer);
  void Requeue(LiveJob& job, Change change, int64_t delay_nanos, absl::string_view actor);
  // The attempt was lost without fault of the job.
  void LoseAttempt(LiveJob& job, Trainer trainer, Change change, absl::string_view actor);
  // An attempt that was to pause or stop has ended: PAUSED or CANCELLED. False for other states.
  bool EndRequested(LiveJob& job, Trainer trainer, absl::string_view actor);
  // Gives slots to queued jobs until the policy finds no more.
  void Schedule();
  void StartAttempt(const Decision& decision);
  int64_t BackoffNanos(int32_t times) const;
  void Touch(const LiveJob& job) { changed_jobs_.insert(job.record.job_id); }
  void AddToQueue(const LiveJob& job, int64_t not_before_nanos);

  // workers.cc
  Error CheckWorker(absl::string_view worker_id, absl::string_view incarnation) const;
  void Seen(WorkerState& worker);
  // Declared slots, or what is held where that is more; open where it takes work.
  void UpdateSlots(const std::string& worker_id);
  // A trainer that runs though its attempt is not live: it holds its slots until it is dead.
  void AddZombie(WorkerState& worker, const AttemptId& attempt);
  void FreeZombie(WorkerState& worker, const AttemptId& attempt);
  void FreeZombiesNotIn(WorkerState& worker, const std::set<AttemptId>& alive);
  AssignmentsChanged AssignmentsOf(const std::string& worker_id) const;
  void ReleaseUnlisted(WorkerState& worker, const WorkerRegistered& event,
                       const std::set<AttemptId>& running);

  // attempt_events.cc
  // The job whose live attempt this is, held by this worker; else null.
  LiveJob* FindAttempt(const std::string& worker_id, const AttemptId& attempt);
  void AttemptFailed(LiveJob& job, const AttemptReported& event, absl::string_view actor);
  void AttemptSucceeded(LiveJob& job, const AttemptReported& event, absl::string_view actor);
  bool IsRepeatedReport(const AttemptReported& event);

  // time_events.cc
  void GrantTermAfterStall();
  void ExpireLeases();
  void WatchWorkers();

  void Fail(absl::StatusCode code, ErrorReason reason, std::string message);
  void AnswerWithJob(const std::string& job_id) { answer_job_id_ = job_id; }
  std::vector<Effect> Flush(uint64_t request_token);
  void FlushJobs(std::vector<JobChanged>& changed);

  const SchedulerOptions options_;
  const std::unique_ptr<SchedulingPolicy> policy_;

  bool recovered_ = false;
  std::map<std::string, LiveJob, std::less<>> jobs_;
  std::map<std::string, std::string> job_of_key_;  // of live jobs
  std::map<std::string, WorkerState, std::less<>> workers_;
  ResourceTracker tracker_;
  LeaseTable leases_;
  RunQueue queue_;
  std::map<std::string, std::set<std::string>> purges_;  // worker_id -> job_ids
  int64_t last_event_id_ = 0;
  int64_t last_submit_sequence_ = 0;
  int64_t last_tick_nanos_ = 0;
  bool ticked_ = false;
  int64_t last_hold_alert_nanos_ = 0;
  bool hold_alerted_ = false;
  SchedulerStats stats_;

  // Of the step at hand.
  Time now_;
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
