#include "server/scheduler/machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble::scheduler {
namespace {

// The policy's window on queue and slots.
class View : public SchedulingView {
 public:
  View(const RunQueue& queue, const ResourceTracker& tracker) : queue_(queue), tracker_(tracker) {}
  std::vector<QueuedJob> Heads() const override { return queue_.Heads(); }
  int32_t FreeSlots(absl::string_view worker_id) const override {
    return tracker_.FreeSlots(worker_id);
  }
  std::optional<std::string> TightestFit(int32_t slots) const override {
    return tracker_.TightestFit(slots);
  }

 private:
  const RunQueue& queue_;
  const ResourceTracker& tracker_;
};

constexpr char kActor[] = "scheduler";

}  // namespace

Scheduler::Machine::Machine(SchedulerOptions options, std::unique_ptr<SchedulingPolicy> policy)
    : options_(options), policy_(std::move(policy)) {
  NIBBLE_CHECK(policy_ != nullptr);
}

std::vector<Effect> Scheduler::Machine::Step(const Event& event) {
  NIBBLE_CHECK(recovered_ == !std::holds_alternative<Recovered>(event.body));
  now_ = event.now;
  stored_job_ = event.stored_job;
  std::visit([this](const auto& body) { Handle(body); }, event.body);
  queue_.Wake(now_.monotonic_nanos);
  Schedule();
  return Flush(event.request_token);
}

Scheduler::Machine::LiveJob* Scheduler::Machine::FindLive(absl::string_view job_id) {
  const auto found = jobs_.find(job_id);
  if (found == jobs_.end() || IsTerminal(found->second.record.state)) return nullptr;
  return &found->second;
}

Scheduler::Machine::LiveJob* Scheduler::Machine::FindLiveOrFail(const std::string& job_id,
                                                                absl::string_view operation) {
  LiveJob* const job = FindLive(job_id);
  if (job != nullptr) return job;
  if (stored_job_ == nullptr) {
    Fail(absl::StatusCode::kNotFound, ErrorReason::kJobNotFound, absl::StrCat("no job ", job_id));
  } else {
    Fail(absl::StatusCode::kFailedPrecondition, ErrorReason::kWrongState,
         absl::StrCat("job ", job_id, " is ", JobStateName(stored_job_->state), " and cannot be ",
                      operation));
  }
  return nullptr;
}

void Scheduler::Machine::Transition(LiveJob& job, Change change, absl::string_view actor) {
  JobRecord& record = job.record;
  const JobState before = record.state;
  NIBBLE_CHECK(IsTransition(before, change.state));
  if (before == JobState::kQueued) queue_.Remove(record.job_id);
  if (before != JobState::kUnspecified) --stats_.jobs_by_state[static_cast<int>(before)];
  ++stats_.jobs_by_state[static_cast<int>(change.state)];
  record.state = change.state;
  record.reason = change.reason;
  record.reason_message = change.message;
  if (change.state == JobState::kRunning && record.start_micros == 0) {
    record.start_micros = now_.wall_micros;
  }
  if (IsTerminal(change.state)) record.end_micros = now_.wall_micros;

  JobEventRecord event;
  event.event_id = ++last_event_id_;
  event.job_id = record.job_id;
  event.attempt = record.attempt;
  event.wall_micros = now_.wall_micros;
  event.actor = std::string(actor);
  event.before = before;
  event.after = change.state;
  event.reason = change.reason;
  event.message = std::move(change.message);
  transaction_.events.push_back(std::move(event));
  if (HasLiveAttempt(change.state)) changed_workers_.insert(record.worker_id);
  Touch(job);
}

void Scheduler::Machine::EndAttempt(LiveJob& job, Trainer trainer) {
  JobRecord& record = job.record;
  NIBBLE_CHECK(HasLiveAttempt(record.state));
  const AttemptId attempt{record.job_id, record.attempt};
  const std::string worker_id = record.worker_id;
  leases_.Remove(record.job_id);
  if (trainer == Trainer::kDead) {
    NIBBLE_CHECK(tracker_.Release(attempt).ok());
    UpdateSlots(worker_id);
  } else {
    workers_.at(worker_id).zombies.insert(attempt);
  }
  record.worker_id.clear();
  record.worker_incarnation.clear();
  changed_workers_.insert(worker_id);
  Touch(job);
}

void Scheduler::Machine::AddToQueue(const LiveJob& job, int64_t not_before_nanos) {
  QueuedJob queued;
  queued.job_id = job.record.job_id;
  queued.priority = job.record.document->priority;
  queued.submit_sequence = job.record.submit_sequence;
  queued.slots = job.record.document->slots;
  if (!job.checkpoints.empty()) queued.preferred_worker = job.checkpoints.front().worker_id;
  queue_.Add(std::move(queued), not_before_nanos);
}

void Scheduler::Machine::Requeue(LiveJob& job, Change change, int64_t delay_nanos,
                                 absl::string_view actor) {
  change.state = JobState::kQueued;
  Transition(job, std::move(change), actor);
  AddToQueue(job, now_.monotonic_nanos + delay_nanos);
}

int64_t Scheduler::Machine::BackoffNanos(int32_t times) const {
  if (times <= 0) return 0;
  int64_t delay = options_.backoff_initial_nanos;
  for (int32_t i = 1; i < times && delay < options_.backoff_max_nanos; ++i) delay *= 2;
  return std::min(delay, options_.backoff_max_nanos);
}

bool Scheduler::Machine::EndRequested(LiveJob& job, Trainer trainer, absl::string_view actor) {
  if (job.record.state == JobState::kStopping) {
    EndAttempt(job, trainer);
    Transition(job, {JobState::kCancelled, JobReason::kCancelRequested, "cancelled by request"},
               actor);
    return true;
  }
  if (job.record.state == JobState::kPausing) {
    EndAttempt(job, trainer);
    Transition(job,
               {JobState::kPaused, JobReason::kPauseRequested,
                job.checkpoints.empty()
                    ? "paused by request before the first checkpoint"
                    : absl::StrCat("paused by request; goes on from the checkpoint of step ",
                                   job.checkpoints.front().step)},
               actor);
    return true;
  }
  return false;
}

void Scheduler::Machine::LoseAttempt(LiveJob& job, Trainer trainer, Change change,
                                     absl::string_view actor) {
  if (EndRequested(job, trainer, actor)) return;
  EndAttempt(job, trainer);
  const int32_t losses = ++job.record.losses_without_progress;
  if (losses > options_.max_losses_without_progress) {
    job.record.last_failure = FailureClass::kControl;
    Transition(job,
               {JobState::kFailed, JobReason::kRestartBudgetExhausted,
                absl::StrCat("lost ", losses,
                             " attempts without a new checkpoint; the last: ", change.message)},
               actor);
    return;
  }
  // The first loss costs no time: it says nothing about the job.
  Requeue(job, std::move(change), BackoffNanos(losses - 1), actor);
}

void Scheduler::Machine::Schedule() {
  const View view(queue_, tracker_);
  while (const std::optional<Decision> decision = policy_->Next(view)) StartAttempt(*decision);
}

void Scheduler::Machine::StartAttempt(const Decision& decision) {
  LiveJob* const job = FindLive(decision.job_id);
  NIBBLE_CHECK(job != nullptr && job->record.state == JobState::kQueued);
  JobRecord& record = job->record;
  ++record.attempt;
  record.worker_id = decision.worker_id;
  record.worker_incarnation = workers_.at(decision.worker_id).info.incarnation;
  if (std::find(record.workers.begin(), record.workers.end(), record.worker_id) ==
      record.workers.end()) {
    record.workers.push_back(record.worker_id);
  }
  NIBBLE_CHECK(
      tracker_.Reserve({record.job_id, record.attempt}, record.worker_id, record.document->slots)
          .ok());
  leases_.Renew(record.job_id, now_.monotonic_nanos,
                now_.monotonic_nanos + options_.lease_term_nanos);
  Transition(*job,
             {JobState::kStarting, JobReason::kSlotsAssigned,
              absl::StrCat("attempt ", record.attempt, " on worker ", record.worker_id)},
             kActor);
}

void Scheduler::Machine::Fail(absl::StatusCode code, ErrorReason reason, std::string message) {
  reply_.error = {code, reason, std::move(message)};
}

void Scheduler::Machine::FlushJobs(std::vector<JobChanged>& changed) {
  for (const std::string& job_id : changed_jobs_) {
    const auto found = jobs_.find(job_id);
    JobRecord& record = found->second.record;
    ++record.revision;
    record.update_micros = now_.wall_micros;
    if (job_id == answer_job_id_) reply_.answer = record;
    transaction_.jobs.push_back(record);
    changed.push_back({record, /*deleted=*/false});
    if (!IsTerminal(record.state)) continue;
    // Forgotten from here on; the store answers for it.
    --stats_.jobs_by_state[static_cast<int>(record.state)];
    const auto key = job_of_key_.find(record.document->request_key);
    if (key != job_of_key_.end() && key->second == job_id) job_of_key_.erase(key);
    jobs_.erase(found);
  }
}

std::vector<Effect> Scheduler::Machine::Flush(uint64_t request_token) {
  if (!answer_job_id_.empty() && changed_jobs_.count(answer_job_id_) == 0) {
    const auto found = jobs_.find(answer_job_id_);
    NIBBLE_CHECK(found != jobs_.end() || stored_job_ != nullptr);
    reply_.answer = found != jobs_.end() ? found->second.record : *stored_job_;
  }
  std::vector<JobChanged> changed;
  FlushJobs(changed);

  std::vector<Effect> effects;
  if (!transaction_.empty()) effects.push_back(std::move(transaction_));
  for (const std::string& worker_id : changed_workers_) {
    const auto worker = workers_.find(worker_id);
    if (worker != workers_.end() && worker->second.registered) {
      effects.push_back(AssignmentsOf(worker_id));
    }
  }
  for (JobChanged& change : changed) effects.push_back(std::move(change));
  for (JobChanged& deletion : deletions_) effects.push_back(std::move(deletion));
  for (PurgeMetrics& purge : metric_purges_) effects.push_back(std::move(purge));
  for (Alert& alert : alerts_) effects.push_back(std::move(alert));
  if (request_token != 0) {
    reply_.request_token = request_token;
    effects.push_back(std::move(reply_));
  }

  stored_job_.reset();
  transaction_ = {};
  changed_jobs_.clear();
  changed_workers_.clear();
  deletions_.clear();
  metric_purges_.clear();
  alerts_.clear();
  reply_ = {};
  answer_job_id_.clear();
  return effects;
}

const JobRecord* Scheduler::Machine::FindJob(absl::string_view job_id) const {
  const auto found = jobs_.find(job_id);
  return found == jobs_.end() ? nullptr : &found->second.record;
}

std::vector<const JobRecord*> Scheduler::Machine::LiveJobs() const {
  std::vector<const JobRecord*> jobs;
  jobs.reserve(jobs_.size());
  for (const auto& [job_id, job] : jobs_) jobs.push_back(&job.record);
  return jobs;
}

SchedulerStats Scheduler::Machine::Stats() const {
  SchedulerStats stats = stats_;
  stats.queue_depth = static_cast<int64_t>(queue_.size());
  stats.leases = static_cast<int64_t>(leases_.size());
  stats.slots = tracker_.total_slots();
  stats.slots_used = tracker_.used_slots();
  for (const auto& [worker_id, worker] : workers_) {
    if (!worker.registered) continue;
    ++(worker.online ? stats.workers_online : stats.workers_unreachable);
  }
  return stats;
}

}  // namespace nibble::scheduler
