// What is known of workers, and their registration and renewals.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/planted.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {
namespace {

constexpr size_t kSupersededKept = 8;

std::string ActorOf(absl::string_view worker_id) { return absl::StrCat("worker:", worker_id); }

}  // namespace

Error Scheduler::Machine::CheckWorker(absl::string_view worker_id,
                                      absl::string_view incarnation) const {
  const auto found = workers_.find(worker_id);
  if (found != workers_.end()) {
    const WorkerState& worker = found->second;
    const bool same =
        worker.info.incarnation == incarnation || NIBBLE_PLANTED("dead_process_believed");
    if (worker.registered && same) return {};
    if (std::find(worker.superseded.begin(), worker.superseded.end(), incarnation) !=
        worker.superseded.end()) {
      return {absl::StatusCode::kFailedPrecondition, ErrorReason::kStaleIncarnation,
              absl::StrCat("a newer process of worker ", worker_id, " has registered")};
    }
  }
  return {absl::StatusCode::kNotFound, ErrorReason::kUnknownWorker,
          absl::StrCat("worker ", worker_id, " has to register")};
}

void Scheduler::Machine::Seen(WorkerState& worker) {
  worker.last_seen_nanos = now_.monotonic_nanos;
  worker.info.last_seen_micros = now_.wall_micros;
  worker.online = true;
  UpdateSlots(worker.info.worker_id);
}

bool Scheduler::Machine::IsOpen(const WorkerState& worker) const {
  if (!worker.registered || !worker.online) return false;
  if (worker.closed_until_nanos > now_.monotonic_nanos) return false;
  const auto record = worker_records_.find(worker.info.worker_id);
  return record == worker_records_.end() || !record->second.drained;
}

void Scheduler::Machine::UpdateSlots(const std::string& worker_id) {
  const WorkerState& worker = workers_.at(worker_id);
  const ResourceTracker::WorkerSlots* const slots = tracker_.Find(worker_id);
  const int32_t used = slots == nullptr ? 0 : slots->used;
  const int32_t total = std::max(worker.info.slots, used);
  const bool open = IsOpen(worker);
  if (slots != nullptr && slots->total == total && slots->open == open) return;
  NIBBLE_CHECK(tracker_.SetWorker(worker_id, total, open).ok());
  capacities_.clear();
  ++generation_;
}

void Scheduler::Machine::AddZombie(WorkerState& worker, const AttemptId& attempt) {
  const std::string& worker_id = worker.info.worker_id;
  if (tracker_.Held(attempt, worker_id) > 0) return;
  // Known from before a restart of the daemon by nobody but the worker. What an ended job had held
  // is not known any more: perhaps all that is free.
  const LiveJob* const job = FindLive(attempt.job_id);
  const ResourceTracker::WorkerSlots& slots = *tracker_.Find(worker_id);
  const int32_t free = slots.total - slots.used;
  const int32_t held = job == nullptr ? free : std::min(job->record.document->slots, free);
  if (held < 1) return;
  NIBBLE_CHECK(tracker_.Reserve(attempt, worker_id, held).ok());
  worker.zombies.insert(attempt);
}

void Scheduler::Machine::FreeZombie(WorkerState& worker, const AttemptId& attempt) {
  if (worker.zombies.erase(attempt) == 0) return;
  NIBBLE_CHECK(tracker_.Release(attempt, worker.info.worker_id).ok());
  UpdateSlots(worker.info.worker_id);
  ++generation_;
}

void Scheduler::Machine::FreeZombiesNotIn(WorkerState& worker, const std::set<AttemptId>& alive) {
  const std::set<AttemptId> zombies = worker.zombies;
  for (const AttemptId& attempt : zombies) {
    if (alive.count(attempt) == 0) FreeZombie(worker, attempt);
  }
}

AssignmentsChanged Scheduler::Machine::AssignmentsOf(const std::string& worker_id) {
  AssignmentsChanged list;
  list.worker_id = worker_id;
  for (const auto& [attempt, slots] : tracker_.Find(worker_id)->holders) {
    LiveJob* const job = jobs_.Find(attempt.job_id);
    if (job == nullptr) continue;
    JobRecord& record = job->record;
    if (!HasLiveAttempt(record.state) || record.attempt != attempt.attempt) continue;
    if (ShareOn(record, worker_id) == nullptr) continue;
    Assignment assignment;
    assignment.attempt = attempt;
    const bool stop =
        record.state == JobState::kStopping || job->pause_overdue ||
        (NIBBLE_PLANTED("preempt_without_checkpoint") && record.reason == JobReason::kPreempted);
    assignment.action = stop                                 ? AssignmentAction::kStop
                        : record.state == JobState::kPausing ? AssignmentAction::kPause
                                                             : AssignmentAction::kRun;
    assignment.document = record.document;
    assignment.placement = record.placement;
    if (!job->checkpoints.empty()) {
      const std::vector<CheckpointRecord>& kept = job->checkpoints;
      assignment.resume_from = kept.front();
      assignment.fallbacks.assign(kept.begin() + 1, kept.end());
    }
    list.assignments.push_back(std::move(assignment));
  }
  const auto purges = purges_.find(worker_id);
  if (purges != purges_.end()) {
    list.purge_job_ids.assign(purges->second.begin(), purges->second.end());
  }
  return list;
}

void Scheduler::Machine::ReleaseUnlisted(WorkerState& worker, const WorkerRegistered& event,
                                         const std::set<AttemptId>& running) {
  const std::map<AttemptId, int32_t> holders = tracker_.Find(event.worker_id)->holders;
  for (const auto& [attempt, slots] : holders) {
    LiveJob* const job = FindAttempt(event.worker_id, attempt);
    if (job == nullptr || running.count(attempt) != 0) continue;
    // The process that was given it still lives: it has yet to read its assignments, or to report.
    if (ShareOn(job->record, event.worker_id)->incarnation == event.incarnation) continue;
    // A trainer dies with its worker process, so the slots are free.
    LoseAttempt(*job, Trainer::kDead, event.worker_id,
                {JobState::kQueued, JobReason::kWorkerLost,
                 absl::StrCat("worker ", event.worker_id, " was restarted during attempt ",
                              attempt.attempt)},
                ActorOf(event.worker_id));
  }
  FreeZombiesNotIn(worker, running);
}

void Scheduler::Machine::Handle(const WorkerRegistered& event) {
  if (event.worker_id.empty() || event.slots < 0 || event.slots > kMaxSlotsOfWorker) {
    return Fail(absl::StatusCode::kInvalidArgument, ErrorReason::kInvalidArgument,
                absl::StrCat("slots is ", event.slots, "; allowed: 0 to ", kMaxSlotsOfWorker));
  }
  const Error known = CheckWorker(event.worker_id, event.incarnation);
  if (known.reason == ErrorReason::kStaleIncarnation) {
    return Fail(known.code, known.reason, known.message);
  }
  if (workers_.count(event.worker_id) == 0 &&
      static_cast<int64_t>(workers_.size()) >= options_.max_workers) {
    return Fail(absl::StatusCode::kResourceExhausted, ErrorReason::kTooManyWorkers,
                absl::StrCat("there are ", workers_.size(), " workers, the most allowed"));
  }

  WorkerState& worker = workers_[event.worker_id];
  if (worker.registered && worker.info.incarnation != event.incarnation) {
    worker.superseded.push_back(worker.info.incarnation);
    if (worker.superseded.size() > kSupersededKept) {
      worker.superseded.erase(worker.superseded.begin());
    }
  }
  worker.registered = true;
  worker.closed_until_nanos = 0;
  worker.info.worker_id = event.worker_id;
  worker.info.incarnation = event.incarnation;
  worker.info.host = event.host;
  worker.info.device_kind = event.device_kind;
  worker.info.device_name = event.device_name;
  worker.info.version = event.version;
  worker.info.slots = event.slots;
  worker.info.slot_memory_bytes = event.slot_memory_bytes;
  worker.info.labels = event.labels;
  capacities_.clear();
  ++generation_;
  Seen(worker);

  const std::set<AttemptId> running(event.running.begin(), event.running.end());
  ReleaseUnlisted(worker, event, running);
  Registration answer;
  answer.lease_term_ms = options_.lease_term_nanos / 1'000'000;
  for (const AttemptId& attempt : running) {
    LiveJob* const job = FindAttempt(event.worker_id, attempt);
    if (job == nullptr) {
      AddZombie(worker, attempt);
      if (NIBBLE_PLANTED("stale_adopted")) answer.adopted.push_back(attempt);
      continue;
    }
    WorkerShare* const share = ShareOn(job->record, event.worker_id);
    if (share->incarnation != event.incarnation) {
      share->incarnation = event.incarnation;
      Touch(*job);
    }
    leases_.Renew(LeaseKey(attempt.job_id, event.worker_id), now_.monotonic_nanos,
                  now_.monotonic_nanos + options_.lease_term_nanos);
    answer.adopted.push_back(attempt);
  }
  const int32_t used = tracker_.Find(event.worker_id)->used;
  if (used > event.slots) {
    alerts_.push_back(
        {AlertKind::kOverAllocated, absl::StrCat("worker ", event.worker_id, " came back with ",
                                                 event.slots, " slots; its attempts hold ", used)});
  }
  changed_workers_.insert(event.worker_id);
  reply_.answer = std::move(answer);
}

void Scheduler::Machine::Handle(const LeasesRenewed& event) {
  const Error known = CheckWorker(event.worker_id, event.incarnation);
  if (!known.ok()) return Fail(known.code, known.reason, known.message);
  WorkerState& worker = workers_.at(event.worker_id);
  Seen(worker);
  const std::set<AttemptId> alive(event.attempts.begin(), event.attempts.end());
  FreeZombiesNotIn(worker, alive);
  Renewal answer;
  answer.lease_term_ms = options_.lease_term_nanos / 1'000'000;
  for (const AttemptId& attempt : alive) {
    if (FindAttempt(event.worker_id, attempt) == nullptr) {
      AddZombie(worker, attempt);
      answer.stale.push_back(attempt);
      continue;
    }
    leases_.Renew(LeaseKey(attempt.job_id, event.worker_id), now_.monotonic_nanos,
                  now_.monotonic_nanos + options_.lease_term_nanos);
    answer.renewed.push_back(attempt);
  }
  const auto purges = purges_.find(event.worker_id);
  for (const std::string& job_id : event.purged_job_ids) {
    if (purges == purges_.end() || purges->second.erase(job_id) == 0) continue;
    transaction_.finished_purges.push_back({job_id, event.worker_id});
    changed_workers_.insert(event.worker_id);
  }
  if (purges != purges_.end() && purges->second.empty()) purges_.erase(purges);
  reply_.answer = std::move(answer);
}

WorkerInfo Scheduler::Machine::InfoOf(const std::string& worker_id) const {
  const WorkerState& worker = workers_.at(worker_id);
  WorkerInfo info = worker.info;
  info.online = worker.online;
  const auto record = worker_records_.find(worker_id);
  if (record != worker_records_.end()) {
    info.drained = record->second.drained;
    info.drain_reason = record->second.drain_reason;
  }
  const ResourceTracker::WorkerSlots* const slots = tracker_.Find(worker_id);
  info.slots_used = slots->used;
  for (const auto& [attempt, count] : slots->holders) {
    if (info.job_ids.empty() || info.job_ids.back() != attempt.job_id) {
      info.job_ids.push_back(attempt.job_id);
    }
  }
  return info;
}

std::vector<WorkerInfo> Scheduler::Machine::Workers() const {
  std::vector<WorkerInfo> infos;
  for (const auto& [worker_id, worker] : workers_) {
    if (worker.registered) infos.push_back(InfoOf(worker_id));
  }
  return infos;
}

}  // namespace nibble::scheduler
