// Which queued job gets slots next, and where. See docs/scheduling.md.
#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/planted.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {
namespace {

constexpr char kActor[] = "scheduler";
constexpr int64_t kSecond = 1'000'000'000;

// How often a reservation is looked at again for an earlier time, and preemption tried again.
constexpr int64_t kReviewNanos = 5 * kSecond;
constexpr int64_t kPreemptRetryNanos = kSecond;

// From the end of an attempt's run time to its slots being free: the worker has to kill the trainer
// and to say so.
constexpr int64_t kStopAllowanceNanos = 10 * kSecond;

constexpr size_t kMaxCapacities = 4096;

}  // namespace

int Scheduler::Machine::ProjectOf(const JobDocument& document) {
  const int project = shares_.IndexOf(document.project);
  jobs_of_project_.resize(shares_.size());
  return project;
}

void Scheduler::Machine::CountRunning(const LiveJob& job, int change) {
  if (!job.record.document->preemptible) return;
  const auto key = std::make_pair(job.project, job.record.document->priority);
  int& count = running_by_priority_[key];
  count += change;
  NIBBLE_CHECK(count >= 0);
  if (count == 0) running_by_priority_.erase(key);
}

RunQueue::Shape* Scheduler::Machine::NextShape() {
  RunQueue::Shape* best = nullptr;
  // Within the quota before borrowing, then the project furthest behind, then age and priority.
  std::tuple<bool, double, int, RunQueue::Order> best_rank;
  for (auto& [key, shape] : queue_.shapes()) {
    if (shape.blocked_at == generation_) continue;
    const int project = std::get<0>(key);
    const int32_t slots = std::get<1>(key);
    if (shares_.ExceedsLimit(project, slots)) continue;
    const bool borrows = shares_.Borrows(project, slots);
    const double rank = shares_.Rank(project, clock_nanos());
    if (best != nullptr) {
      const auto here = std::make_tuple(borrows, rank, project);
      const auto there =
          std::make_tuple(std::get<0>(best_rank), std::get<1>(best_rank), std::get<2>(best_rank));
      if (there < here) continue;
      if (here == there && std::get<3>(best_rank) < shape.ready.begin()->first) continue;
    }
    best = &shape;
    best_rank = {borrows, rank, project, shape.ready.begin()->first};
  }
  return best;
}

// Whoever comes first in the queue: slots that were promised, and those that others were made to
// give up for it, are its own.
void Scheduler::Machine::StartReserved() {
  if (!reservation_.has_value() || reserved_blocked_at_ == generation_) return;
  const QueuedJob& holder = *queue_.Find(reservation_->job_id);
  reserved_blocked_at_ = generation_;
  if (!queue_.IsReady(holder.job_id())) return;
  // One like it may have come back to an earlier place in the queue: the promise is that one's,
  // unless it is the one that had to make room.
  const auto& ready = queue_.ShapeOf(holder).ready;
  const auto& victims = reservation_->victims;
  const auto first = std::find_if(ready.begin(), ready.end(), [&](const auto& waiting) {
    return std::find(victims.begin(), victims.end(), waiting.second->job_id()) == victims.end();
  });
  const QueuedJob& job = *first->second;
  reservation_->job_id = job.job_id();
  if (shares_.ExceedsLimit(job.project, job.slots)) return;
  std::vector<WorkerShare> placement = Place(job);
  if (!placement.empty()) StartAttempt(jobs_.At(job.job_id()), std::move(placement));
}

void Scheduler::Machine::Schedule() {
  StartReserved();
  while (RunQueue::Shape* const shape = NextShape()) {
    const QueuedJob& job = queue_.First(*shape);
    std::vector<WorkerShare> placement = Place(job);
    if (!placement.empty()) {
      StartAttempt(jobs_.At(job.job_id()), std::move(placement));
      continue;
    }
    shape->blocked_at = generation_;
    ReserveFor(job);
    StartReserved();
  }
}

void Scheduler::Machine::StartAttempt(LiveJob& job, std::vector<WorkerShare> placement) {
  JobRecord& record = job.record;
  NIBBLE_CHECK(record.state == JobState::kQueued);
  if (record.attempt == 0 || !NIBBLE_PLANTED("epoch_reused")) ++record.attempt;
  record.placement = std::move(placement);
  record.attempt_clock_nanos = clock_nanos();
  record.retry_delay_nanos = 0;
  NIBBLE_CHECK(tracker_.Reserve({record.job_id, record.attempt}, record.placement).ok());
  std::string where;
  for (WorkerShare& share : record.placement) {
    share.incarnation = workers_.at(share.worker_id).info.incarnation;
    if (std::find(record.workers.begin(), record.workers.end(), share.worker_id) ==
        record.workers.end()) {
      record.workers.push_back(share.worker_id);
    }
    leases_.Renew(LeaseKey(record.job_id, share.worker_id), now_.monotonic_nanos,
                  now_.monotonic_nanos + options_.lease_term_nanos);
    absl::StrAppend(&where, where.empty() ? "" : ", ", share.worker_id);
  }
  shares_.Hold(job.project, record.document->slots, clock_nanos());
  if (record.document->max_run_nanos > 0) {
    run_deadlines_.emplace(record.attempt_clock_nanos + record.document->max_run_nanos,
                           record.job_id);
  }
  Transition(job,
             {JobState::kStarting, JobReason::kSlotsAssigned,
              absl::StrCat("attempt ", record.attempt, " on worker",
                           record.placement.size() == 1 ? " " : "s ", where)},
             kActor);
}

bool Scheduler::Machine::Matches(const WorkerState& worker, const QueuedJob& job,
                                 const Capacity& capacity) const {
  const WorkerConstraints& wanted = job.constraints();
  const auto& avoided = capacity.avoided;
  if (std::find(avoided.begin(), avoided.end(), worker.info.worker_id) != avoided.end()) {
    return false;
  }
  if (wanted.empty()) return true;
  if (!wanted.device_kind.empty() && worker.info.device_kind != wanted.device_kind) return false;
  if (worker.info.slot_memory_bytes < wanted.min_slot_memory_bytes) return false;
  return std::all_of(wanted.labels.begin(), wanted.labels.end(), [&worker](const auto& label) {
    const auto found = worker.info.labels.find(label.first);
    return found != worker.info.labels.end() && found->second == label.second;
  });
}

Scheduler::Machine::Capacity Scheduler::Machine::MeasureCapacity(
    const QueuedJob& job, std::vector<std::string> avoided) const {
  Capacity capacity;
  capacity.avoided = std::move(avoided);
  for (const auto& [worker_id, worker] : workers_) {
    if (!IsOpen(worker) || !Matches(worker, job, capacity)) continue;
    capacity.widest = std::max(capacity.widest, worker.info.slots);
    capacity.total += worker.info.slots;
  }
  return capacity;
}

const Scheduler::Machine::Capacity& Scheduler::Machine::CapacityFor(const QueuedJob& job) const {
  if (capacities_.size() > kMaxCapacities) capacities_.clear();
  const auto [entry, inserted] =
      capacities_.try_emplace({job.constraints(), job.failed_workers()}, Capacity());
  if (!inserted) return entry->second;
  entry->second = MeasureCapacity(job, {});
  if (job.failed_workers().empty()) return entry->second;
  // Avoided only where the others are no narrower: else the job might never run again. Where not
  // all can be, at least the one where it failed last.
  const std::vector<std::string> choices[] = {job.failed_workers(), {job.failed_workers().back()}};
  for (const std::vector<std::string>& avoided : choices) {
    Capacity others = MeasureCapacity(job, avoided);
    if (others.total == 0 || others.widest < entry->second.widest) continue;
    entry->second = std::move(others);
    break;
  }
  return entry->second;
}

int32_t Scheduler::Machine::Unreserved(const std::string& worker_id, const QueuedJob& job,
                                       int32_t free) const {
  if (!reservation_.has_value() || reservation_->job_id == job.job_id()) return free;
  const auto kept = reservation_->slots.find(worker_id);
  if (kept == reservation_->slots.end() || NIBBLE_PLANTED("reservation_ignored")) return free;
  const int64_t bound = RunTimeClass(job.max_run_nanos);
  const int64_t end = clock_nanos() + bound + kStopAllowanceNanos;
  if (bound > 0 && end <= reservation_->shadow_nanos) return free;
  // It may stay beyond the reservation's start: it may have what nobody needs then.
  const ResourceTracker::WorkerSlots& worker = *tracker_.Find(worker_id);
  int32_t staying = 0;
  for (const auto& [attempt, slots] : worker.holders) {
    const int64_t holder_end = EndOf(attempt);
    const JobRecord* const holder = FindJob(attempt.job_id);
    const bool later = holder != nullptr && holder->attempt_clock_nanos > reservation_->made_nanos;
    const int64_t by = later ? reservation_->shadow_nanos : reservation_->start_nanos;
    if (holder_end > by) staying += slots;
  }
  return std::clamp(worker.total - staying - kept->second, 0, free);
}

std::vector<WorkerShare> Scheduler::Machine::Place(const QueuedJob& job) const {
  const Capacity& capacity = CapacityFor(job);
  if (!capacity.Fits(job.slots)) return {};
  const auto usable = [&](const std::string& worker_id, int32_t free) {
    if (!job.constraints().empty() || !capacity.avoided.empty()) {
      if (!Matches(workers_.find(worker_id)->second, job, capacity)) return 0;
    }
    return Unreserved(worker_id, job, free);
  };
  const auto& open = tracker_.open_by_free();
  if (!capacity.Spreads(job.slots)) {
    const std::string& preferred = job.preferred_worker;
    if (!preferred.empty() && tracker_.FreeSlots(preferred) >= job.slots &&
        usable(preferred, tracker_.FreeSlots(preferred)) >= job.slots) {
      return {{preferred, "", job.slots}};
    }
    // The tightest fit keeps wide room; of equal ones the first by name.
    for (auto it = open.lower_bound({job.slots, ""}); it != open.end(); ++it) {
      if (usable(it->second, it->first) >= job.slots) return {{it->second, "", job.slots}};
    }
    return {};
  }
  // Wider than every worker: over as few of them as can be.
  std::vector<WorkerShare> shares;
  int32_t missing = job.slots;
  for (auto it = open.rbegin(); it != open.rend() && missing > 0; ++it) {
    const int32_t taken = std::min(usable(it->second, it->first), missing);
    if (taken > 0) shares.push_back({it->second, "", taken});
    missing -= taken;
  }
  if (missing > 0) shares.clear();
  return shares;
}

int64_t Scheduler::Machine::EndOf(const AttemptId& attempt) const {
  const LiveJob* const found = jobs_.Find(attempt.job_id);
  if (found == nullptr || found->record.attempt != attempt.attempt) return kNever;
  const LiveJob& job = *found;
  if (!HasLiveAttempt(job.record.state)) return kNever;  // its trainer may still live
  int64_t end = kNever;
  if (job.record.document->max_run_nanos > 0) {
    end = job.record.attempt_clock_nanos + job.record.document->max_run_nanos + kStopAllowanceNanos;
  }
  if (job.record.state == JobState::kPausing) {
    end = std::min(end, job.pause_deadline_nanos + clock_offset_nanos_);
  }
  return end;
}

std::vector<WorkerOutlook> Scheduler::Machine::Outlooks(const QueuedJob& job,
                                                        bool only_ending) const {
  const Capacity& capacity = CapacityFor(job);
  std::vector<WorkerOutlook> outlooks;
  for (const auto& [worker_id, worker] : workers_) {
    if (!IsOpen(worker) || !Matches(worker, job, capacity)) continue;
    const ResourceTracker::WorkerSlots& slots = *tracker_.Find(worker_id);
    WorkerOutlook& outlook = outlooks.emplace_back();
    outlook.worker_id = worker_id;
    outlook.total = slots.total;
    outlook.free = slots.total - slots.used;
    for (const auto& [attempt, count] : slots.holders) {
      int64_t end = EndOf(attempt);
      if (only_ending) {
        const JobRecord* const holder = FindJob(attempt.job_id);
        const bool ending = holder != nullptr && (holder->state == JobState::kPausing ||
                                                  holder->state == JobState::kStopping);
        end = ending ? clock_nanos() : kNever;
      }
      outlook.releases.push_back({end, count});
    }
  }
  return outlooks;
}

void Scheduler::Machine::DropReservation() {
  reservation_.reset();
  ++generation_;
}

bool Scheduler::Machine::Displaces(const QueuedJob& job) const {
  const QueuedJob* const holder = queue_.Find(reservation_->job_id);
  NIBBLE_CHECK(holder != nullptr);
  if (job.project == holder->project) return RunQueue::OrderOf(job) < RunQueue::OrderOf(*holder);
  // What is inside a quota goes before what is borrowed. Otherwise the one that was first stays.
  return !shares_.Borrows(job.project, job.slots) &&
         shares_.Borrows(holder->project, holder->slots);
}

void Scheduler::Machine::ReserveFor(const QueuedJob& job) {
  const bool held = reservation_.has_value();
  if (held && reservation_->job_id == job.job_id()) return;
  if (held && !Displaces(job)) return;
  const Capacity& capacity = CapacityFor(job);
  if (!capacity.Fits(job.slots)) return;  // it delays nobody
  if (MayPreempt(job)) {
    if (now_.monotonic_nanos >= next_preempt_nanos_ && Preempt(job)) return;
    preempt_later_ = true;
  }
  // The next slot that comes free is a one-slot job's anyway.
  if (job.slots == 1) return;
  std::optional<Reservation> plan = PlanReservation(
      job.slots, capacity.Spreads(job.slots), Outlooks(job, /*only_ending=*/false), clock_nanos());
  if (!plan.has_value()) return;
  plan->job_id = job.job_id();
  plan->made_nanos = clock_nanos();
  if (held) ++generation_;  // what the other one kept is free
  reservation_ = *std::move(plan);
}

bool Scheduler::Machine::MayPreempt(const QueuedJob& job) const {
  const auto lowest = running_by_priority_.lower_bound({job.project, INT32_MIN});
  if (lowest != running_by_priority_.end() && lowest->first.first == job.project &&
      lowest->first.second < job.priority) {
    return true;
  }
  if (shares_.Borrows(job.project, job.slots)) return false;
  for (int project = 0; project < shares_.size(); ++project) {
    if (project != job.project && shares_.Borrows(project, 0)) return true;
  }
  return false;
}

bool Scheduler::Machine::IsVictimOf(const LiveJob& victim, const QueuedJob& job) const {
  const JobRecord& record = victim.record;
  if (record.state != JobState::kRunning && record.state != JobState::kStarting) return false;
  if (!record.document->preemptible) return false;
  if (clock_nanos() - record.attempt_clock_nanos < options_.min_run_nanos) return false;
  if (victim.project == job.project) return record.document->priority < job.priority;
  return !shares_.Borrows(job.project, job.slots) && shares_.Borrows(victim.project, 0);
}

bool Scheduler::Machine::Preempt(const QueuedJob& job) {
  next_preempt_nanos_ = now_.monotonic_nanos + kPreemptRetryNanos;
  std::vector<VictimCandidate> candidates;
  // Of a borrowing project only what it has beyond its quota, its newest attempts first.
  std::map<int, int32_t> borrowed;
  std::vector<const LiveJob*> victims =
      jobs_.Where([&](const LiveJob& live) { return IsVictimOf(live, job); });
  const auto lost = [this](const LiveJob& live) {
    const int64_t since = std::max(live.record.attempt_clock_nanos, live.record.commit_clock_nanos);
    return (clock_nanos() - since) * live.record.document->slots;
  };
  std::stable_sort(victims.begin(), victims.end(),
                   [&](const LiveJob* a, const LiveJob* b) { return lost(*a) < lost(*b); });
  for (const LiveJob* live : victims) {
    if (live->project != job.project) {
      const auto [left, inserted] = borrowed.try_emplace(
          live->project, shares_.held(live->project) - shares_.options(live->project).quota_slots);
      if (left->second < live->record.document->slots) continue;
      left->second -= live->record.document->slots;
    }
    VictimCandidate& candidate = candidates.emplace_back();
    candidate.job_id = live->record.job_id;
    for (const WorkerShare& share : live->record.placement) {
      candidate.slots[share.worker_id] += share.slots;
    }
    candidate.lost_slot_nanos = lost(*live);
  }
  const Capacity& capacity = CapacityFor(job);
  const auto choice = ChooseVictims(job.slots, capacity.Spreads(job.slots),
                                    Outlooks(job, /*only_ending=*/true), candidates);
  if (!choice.has_value() || choice->job_ids.empty()) return false;
  const std::string preemptor = job.job_id();
  for (const std::string& victim : choice->job_ids) {
    Evict(jobs_.At(victim),
          {JobState::kPausing, JobReason::kPreempted,
           absl::StrCat("makes room for job ", preemptor, ": checkpoints within ",
                        options_.pause_grace_nanos / kSecond, " s"),
           absl::StrCat("job:", preemptor)},
          kActor);
  }
  Reservation reservation;
  reservation.job_id = preemptor;
  reservation.made_nanos = clock_nanos();
  reservation.slots = choice->slots;
  reservation.start_nanos = reservation.shadow_nanos = clock_nanos() + options_.pause_grace_nanos;
  reservation.preempting = true;
  reservation.victims = choice->job_ids;
  reservation_ = std::move(reservation);
  ++generation_;
  return true;
}

void Scheduler::Machine::ReviewReservation() {
  if (preempt_later_ && now_.monotonic_nanos >= next_preempt_nanos_) {
    preempt_later_ = false;
    ++generation_;  // every head is tried again
  }
  if (!reservation_.has_value() || now_.monotonic_nanos < next_review_nanos_) return;
  next_review_nanos_ = now_.monotonic_nanos + kReviewNanos;
  const QueuedJob job = *queue_.Find(reservation_->job_id);
  const Capacity& capacity = CapacityFor(job);
  if (!capacity.Fits(job.slots)) return DropReservation();
  if (!reservation_->preempting && MayPreempt(job) && Preempt(job)) return;
  std::optional<Reservation> plan = PlanReservation(
      job.slots, capacity.Spreads(job.slots), Outlooks(job, /*only_ending=*/false), clock_nanos());
  if (!plan.has_value()) return DropReservation();
  bool valid = clock_nanos() <= reservation_->start_nanos;
  for (const auto& [worker_id, slots] : reservation_->slots) {
    const auto worker = workers_.find(worker_id);
    valid = valid && worker != workers_.end() && IsOpen(worker->second);
  }
  // A promise is kept where it can be, and only ever replaced by an earlier one.
  if (valid && plan->start_nanos >= reservation_->start_nanos) return;
  plan->job_id = job.job_id();
  plan->made_nanos = clock_nanos();
  plan->victims = std::move(reservation_->victims);
  reservation_ = *std::move(plan);
  ++generation_;
}

}  // namespace nibble::scheduler
