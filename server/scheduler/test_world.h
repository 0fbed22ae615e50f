// What tests put around a Scheduler: a clock, and a ledger that keeps what transactions write, as a
// store would. Every step is judged by the InvariantChecker.
#ifndef SERVER_SCHEDULER_TEST_WORLD_H_
#define SERVER_SCHEDULER_TEST_WORLD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/scheduler/scheduler.h"

namespace nibble::scheduler {

// Rows as transactions left them.
struct Ledger {
  std::map<std::string, JobRecord> jobs;
  std::map<std::string, std::map<int64_t, CheckpointRecord>> checkpoints;
  std::vector<JobEventRecord> events;
  std::map<std::string, IdempotencyRecord> keys;
  std::map<PurgeRecord, bool> purges;
  std::map<std::string, WorkerRecord> workers;
  std::map<std::string, ProjectUsage> usages;
  int64_t last_event_id = 0;
  int64_t last_submit_sequence = 0;

  void Apply(const Transaction& transaction);
  Recovered Recover() const;
};

// Everything that effects say, as text; equal effects give equal texts.
std::string DebugString(const std::vector<Effect>& effects);

class InvariantChecker;

class World {
 public:
  explicit World(SchedulerOptions options = {}, bool checked = true);
  ~World();

  // Hands the event over as a coordinator would and returns the reply.
  Reply Step(EventBody body);
  // Time passes, with a Tick at least every second.
  void Advance(int64_t nanos);
  // Time passes without a Tick.
  void Stall(int64_t nanos) { now_.monotonic_nanos += nanos; }
  // The daemon dies and a new one starts from the ledger.
  void Restart();

  // Of every event from now on.
  void set_random(uint64_t random) { random_ = random; }

  // Short forms for stories. Submit gives the job's id.
  std::string Submit(JobDocument document = {});
  Reply Register(const std::string& worker, int32_t slots, const std::string& incarnation = "i1",
                 std::vector<AttemptId> running = {});
  Reply Renew(const std::string& worker, std::vector<AttemptId> attempts,
              const std::string& incarnation = "i1");
  Reply Report(const std::string& worker, AttemptId attempt, AttemptStatus status,
               FailureClass failure_class = FailureClass::kUnspecified,
               const std::string& incarnation = "i1");
  Reply Commit(const std::string& worker, AttemptId attempt, int64_t step);

  Scheduler& scheduler() { return *scheduler_; }
  const Ledger& ledger() const { return ledger_; }
  const JobRecord& job(const std::string& job_id) const { return ledger_.jobs.at(job_id); }
  JobState state(const std::string& job_id) const { return job(job_id).state; }
  // The newest list sent to the worker.
  const AssignmentsChanged& list(const std::string& worker) { return lists_[worker]; }
  const std::vector<Effect>& effects() const { return effects_; }
  // Since the last call.
  std::vector<Alert> TakeAlerts() { return std::exchange(alerts_, {}); }
  // Every event so far, and the effects it had; cleared by Restart.
  const std::vector<Event>& events() const { return events_; }
  const std::vector<std::string>& effect_texts() const { return effect_texts_; }
  // Violations of invariants so far.
  const std::vector<std::string>& violations() const;
  const Time& now() const { return now_; }

 private:
  const SchedulerOptions options_;
  const bool checked_;
  Time now_{1'000'000'000, 1'700'000'000'000'000};
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<InvariantChecker> checker_;
  Ledger ledger_;
  std::map<std::string, AssignmentsChanged> lists_;
  std::vector<Effect> effects_;
  std::vector<Alert> alerts_;
  std::vector<Event> events_;
  std::vector<std::string> effect_texts_;
  uint64_t random_ = 0;
  uint64_t next_token_ = 1;
  int64_t next_job_ = 1;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_TEST_WORLD_H_
