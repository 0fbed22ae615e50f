#include "server/scheduler/machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/planted.h"

namespace nibble::scheduler {
namespace {

bool Runs(JobState state) { return state == JobState::kStarting || state == JobState::kRunning; }

}  // namespace

Scheduler::Machine::Machine(SchedulerOptions options)
    : options_(std::move(options)),
      shares_(options_.projects, options_.fair_share_half_life_nanos) {}

std::vector<Effect> Scheduler::Machine::Step(Event event) {
  NIBBLE_CHECK(recovered_ == !std::holds_alternative<Recovered>(event.body));
  now_ = event.now;
  random_ = event.random;
  if (NIBBLE_PLANTED("wall_clock_leases")) now_.monotonic_nanos = now_.wall_micros * 1000;
  stored_job_ = event.stored_job;
  std::visit([this](auto& body) { Handle(body); }, event.body);
  queue_.Wake(now_.monotonic_nanos);
  Schedule();
  return Flush(event.request_token);
}

Scheduler::Machine::LiveJob* Scheduler::Machine::FindLive(absl::string_view job_id) {
  LiveJob* const job = jobs_.Find(job_id);
  return job == nullptr || IsTerminal(job->record.state) ? nullptr : job;
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

WorkerShare* Scheduler::Machine::ShareOn(JobRecord& record, absl::string_view worker_id) {
  for (WorkerShare& share : record.placement) {
    if (share.worker_id == worker_id) return &share;
  }
  return nullptr;
}

void Scheduler::Machine::AddEvent(const JobRecord& record, JobState before, Change change,
                                  absl::string_view actor) {
  JobEventRecord event;
  event.event_id = ++last_event_id_;
  event.job_id = record.job_id;
  event.attempt = record.attempt;
  event.wall_micros = now_.wall_micros;
  event.actor = std::string(actor);
  event.before = before;
  event.after = record.state;
  event.reason = change.reason;
  event.message = std::move(change.message);
  event.cause = std::move(change.cause);
  transaction_.events.push_back(std::move(event));
}

void Scheduler::Machine::Transition(LiveJob& job, Change change, absl::string_view actor) {
  JobRecord& record = job.record;
  const JobState before = record.state;
  NIBBLE_CHECK(IsTransition(before, change.state));
  if (before == JobState::kQueued) RemoveFromQueue(record.job_id);
  if (before != JobState::kUnspecified) --stats_.jobs_by_state[static_cast<int>(before)];
  ++stats_.jobs_by_state[static_cast<int>(change.state)];
  if (Runs(before) && !Runs(change.state)) CountRunning(job, -1);
  if (!Runs(before) && Runs(change.state)) CountRunning(job, 1);
  record.state = change.state;
  record.reason = change.reason;
  record.reason_message = change.message;
  if (change.state == JobState::kRunning && record.start_micros == 0) {
    record.start_micros = now_.wall_micros;
  }
  if (IsTerminal(change.state)) record.end_micros = now_.wall_micros;
  if (change.state == JobState::kPausing) {
    job.pause_deadline_nanos = now_.monotonic_nanos + options_.pause_grace_nanos;
    job.pause_overdue = false;
    pause_deadlines_.emplace(job.pause_deadline_nanos, record.job_id);
  } else if (before == JobState::kPausing) {
    pause_deadlines_.erase({job.pause_deadline_nanos, record.job_id});
    job.pause_overdue = false;  // else the next attempt would be stopped for it
  }
  AddEvent(record, before, std::move(change), actor);
  for (const WorkerShare& share : record.placement) changed_workers_.insert(share.worker_id);
  Touch(job);
}

void Scheduler::Machine::Note(LiveJob& job, Change change, absl::string_view actor) {
  AddEvent(job.record, job.record.state, std::move(change), actor);
  Touch(job);
}

void Scheduler::Machine::EndShare(LiveJob& job, const std::string& worker_id, Trainer trainer) {
  JobRecord& record = job.record;
  NIBBLE_CHECK(HasLiveAttempt(record.state));
  const AttemptId attempt{record.job_id, record.attempt};
  const auto share = std::find_if(record.placement.begin(), record.placement.end(),
                                  [&](const WorkerShare& s) { return s.worker_id == worker_id; });
  NIBBLE_CHECK(share != record.placement.end());
  leases_.Remove(LeaseKey(record.job_id, worker_id));
  if (!NIBBLE_PLANTED("quota_not_returned")) {
    shares_.Hold(job.project, -share->slots, clock_nanos());
  }
  if (trainer == Trainer::kDead || NIBBLE_PLANTED("double_placement")) {
    NIBBLE_CHECK(tracker_.Release(attempt, worker_id).ok());
    UpdateSlots(worker_id);
    ++generation_;
  } else {
    workers_.at(worker_id).zombies.insert(attempt);
  }
  record.placement.erase(share);
  changed_workers_.insert(worker_id);
  if (record.placement.empty() && record.document->max_run_nanos > 0) {
    run_deadlines_.erase(
        {record.attempt_clock_nanos + record.document->max_run_nanos, record.job_id});
  }
  Touch(job);
}

void Scheduler::Machine::EndAttempt(LiveJob& job, Trainer trainer, const std::string& reporter) {
  const std::vector<WorkerShare> placement = job.record.placement;
  for (const WorkerShare& share : placement) {
    EndShare(job, share.worker_id, share.worker_id == reporter ? trainer : Trainer::kUnknown);
  }
}

void Scheduler::Machine::AddToQueue(const LiveJob& job, int64_t not_before_nanos) {
  QueuedJob queued;
  queued.record = &job.record;
  queued.project = job.project;
  queued.priority = job.record.document->priority;
  queued.order_nanos =
      job.record.queued_clock_nanos -
      int64_t{queued.priority} * options_.ageing_nanos * (NIBBLE_PLANTED("ageing_off") ? 1000 : 1);
  queued.slots = job.record.document->slots;
  queued.max_run_nanos = job.record.document->max_run_nanos;
  if (!job.checkpoints.empty()) queued.preferred_worker = job.checkpoints.front().worker_id;
  if (not_before_nanos <= now_.monotonic_nanos) {
    queue_.Add(std::move(queued));
  } else {
    queue_.AddSleeping(std::move(queued), not_before_nanos);
  }
}

void Scheduler::Machine::RemoveFromQueue(const std::string& job_id) {
  queue_.Remove(job_id);
  if (reservation_.has_value() && reservation_->job_id == job_id) DropReservation();
}

void Scheduler::Machine::Requeue(LiveJob& job, Change change, int64_t delay_nanos,
                                 absl::string_view actor) {
  change.state = JobState::kQueued;
  job.record.retry_delay_nanos = delay_nanos;
  Transition(job, std::move(change), actor);
  AddToQueue(job, now_.monotonic_nanos + delay_nanos);
}

int64_t Scheduler::Machine::BackoffNanos(int32_t times, int64_t initial_nanos) const {
  if (times <= 0) return 0;
  int64_t delay = initial_nanos;
  for (int32_t i = 1; i < times && delay < options_.backoff_max_nanos; ++i) delay *= 2;
  delay = std::min(delay, options_.backoff_max_nanos);
  // Between half of it and all of it, so that jobs that failed together come back apart.
  const double part = static_cast<double>(random_ >> 11) * 0x1p-53;
  return delay - static_cast<int64_t>(static_cast<double>(delay) * part / 2);
}

bool Scheduler::Machine::EndRequested(LiveJob& job, Trainer trainer, const std::string& worker_id,
                                      absl::string_view actor) {
  JobRecord& record = job.record;
  if (record.state != JobState::kStopping && record.state != JobState::kPausing) return false;
  EndShare(job, worker_id, trainer);
  if (!record.placement.empty()) return true;  // other workers have yet to answer
  const std::string from =
      job.checkpoints.empty()
          ? "before the first checkpoint"
          : absl::StrCat("goes on from the checkpoint of step ", job.checkpoints.front().step);
  if (record.state == JobState::kStopping) {
    if (record.reason == JobReason::kRunTimeExceeded) {
      Transition(job,
                 {JobState::kFailed, JobReason::kRunTimeExceeded,
                  absl::StrCat("stopped after its scheduling.max_run_time; committed step ",
                               record.committed_step)},
                 actor);
    } else {
      Transition(job, {JobState::kCancelled, JobReason::kCancelRequested, "cancelled by request"},
                 actor);
    }
  } else if (record.reason == JobReason::kPauseRequested) {
    Transition(
        job,
        {JobState::kPaused, JobReason::kPauseRequested, absl::StrCat("paused by request; ", from)},
        actor);
  } else {
    ++record.preemptions;
    Requeue(job, {JobState::kQueued, record.reason, absl::StrCat("gave its slots back; ", from)},
            /*delay_nanos=*/0, actor);
  }
  return true;
}

void Scheduler::Machine::Evict(LiveJob& job, Change change, absl::string_view actor) {
  change.state = JobState::kPausing;
  Transition(job, std::move(change), actor);
}

void Scheduler::Machine::LoseAttempt(LiveJob& job, Trainer trainer, const std::string& worker_id,
                                     Change change, absl::string_view actor) {
  if (change.cause.empty()) change.cause = absl::StrCat("worker:", worker_id);
  if (EndRequested(job, trainer, worker_id, actor)) return;
  EndAttempt(job, trainer, worker_id);
  if (NIBBLE_PLANTED("losses_forgotten")) job.record.losses_without_progress = 0;
  const int32_t losses = ++job.record.losses_without_progress;
  if (losses > options_.max_losses_without_progress) {
    job.record.last_failure = FailureClass::kControl;
    Transition(job,
               {JobState::kFailed, JobReason::kRestartBudgetExhausted,
                absl::StrCat("lost ", losses,
                             " attempts without a new checkpoint; the last: ", change.message),
                change.cause},
               actor);
    return;
  }
  // The first loss costs no time: it says nothing about the job.
  Requeue(job, std::move(change), BackoffNanos(losses - 1, options_.backoff_initial_nanos), actor);
}

void Scheduler::Machine::Fail(absl::StatusCode code, ErrorReason reason, std::string message) {
  reply_.error = {code, reason, std::move(message)};
}

void Scheduler::Machine::FlushJobs(std::vector<JobChanged>& changed) {
  for (const std::string& job_id : changed_jobs_) {
    LiveJob& job = jobs_.At(job_id);
    JobRecord& record = job.record;
    ++record.revision;
    record.update_micros = now_.wall_micros;
    if (job_id == answer_job_id_) reply_.answer = record;
    transaction_.jobs.push_back(record);
    changed.push_back({record, /*deleted=*/false});
    if (!IsTerminal(record.state)) continue;
    // Forgotten from here on; the store answers for it.
    --stats_.jobs_by_state[static_cast<int>(record.state)];
    if (job_of_key_.Find(record.document->request_key) == &job) {
      job_of_key_.Remove(record.document->request_key);
    }
    --jobs_of_project_[job.project];
    jobs_.Remove(job_id);
  }
}

std::vector<Effect> Scheduler::Machine::Flush(uint64_t request_token) {
  if (!answer_job_id_.empty() && changed_jobs_.count(answer_job_id_) == 0) {
    const JobRecord* const live = FindJob(answer_job_id_);
    NIBBLE_CHECK(live != nullptr || stored_job_ != nullptr);
    reply_.answer = live != nullptr ? *live : *stored_job_;
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
  const LiveJob* const job = jobs_.Find(job_id);
  return job == nullptr ? nullptr : &job->record;
}

std::vector<const JobRecord*> Scheduler::Machine::LiveJobs() const {
  std::vector<const JobRecord*> jobs;
  jobs.reserve(jobs_.size());
  for (const LiveJob* job : jobs_.Where([](const LiveJob&) { return true; })) {
    jobs.push_back(&job->record);
  }
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
