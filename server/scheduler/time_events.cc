// Start and the passing of time: recovery, expiry of leases, silent workers.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/planted.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {
namespace {

constexpr char kActor[] = "scheduler";

// R3: so many leases, and more than half, never expire at once.
constexpr size_t kMassExpiryLeases = 3;

// How much of a project's usage, and of the scheduler's clock, a crash of the daemon may forget.
constexpr int64_t kUsageNanos = 60LL * 1'000'000'000;

}  // namespace

void Scheduler::Machine::Handle(Recovered& event) {
  recovered_ = true;
  last_tick_nanos_ = now_.monotonic_nanos;  // a stall may come before the first tick
  last_event_id_ = event.last_event_id;
  last_submit_sequence_ = event.last_submit_sequence;
  for (const PurgeRecord& purge : event.purges) {
    purges_[purge.worker_id].insert(purge.job_id);
    if (purge.worker_id.empty()) metric_purges_.push_back({purge.job_id});
  }
  for (const WorkerRecord& worker : event.workers) {
    if (!NIBBLE_PLANTED("drain_forgotten")) worker_records_[worker.worker_id] = worker;
  }
  int64_t clock = 0;
  for (const ProjectUsage& usage : event.usages) clock = std::max(clock, usage.clock_nanos);
  for (const Recovered::Job& row : event.jobs) {
    clock = std::max({clock, row.record.queued_clock_nanos, row.record.attempt_clock_nanos,
                      row.record.commit_clock_nanos});
  }
  clock_offset_nanos_ = clock - now_.monotonic_nanos;
  for (const ProjectUsage& usage : event.usages) shares_.Restore(usage, clock);
  jobs_.Reserve(event.jobs.size());
  queue_.Reserve(event.jobs.size());
  for (; !event.jobs.empty(); event.jobs.pop_front()) RecoverJob(std::move(event.jobs.front()));
}

void Scheduler::Machine::RecoverJob(Recovered::Job row) {
  NIBBLE_CHECK(!IsTerminal(row.record.state) && row.record.document != nullptr);
  auto added = std::make_unique<LiveJob>();
  added->record = std::move(row.record);
  LiveJob& job = jobs_.Add(std::move(added));
  const JobRecord& record = job.record;
  if (NIBBLE_PLANTED("budget_lost_on_restart")) job.record.failures_without_progress = 0;
  if (NIBBLE_PLANTED("pause_lost_on_restart") && record.state == JobState::kPaused) {
    job.record.state = JobState::kQueued;
  }
  job.project = ProjectOf(*record.document);
  ++jobs_of_project_[job.project];
  job.checkpoints = std::move(row.checkpoints);
  std::sort(job.checkpoints.begin(), job.checkpoints.end(),
            [](const auto& a, const auto& b) { return a.step > b.step; });
  ++stats_.jobs_by_state[static_cast<int>(record.state)];
  if (!record.document->request_key.empty()) {
    // A key is given once; were it in two rows, the newer one answers.
    job_of_key_.Remove(record.document->request_key);
    job_of_key_.Add(&job);
  }
  if (job.record.state == JobState::kQueued) {
    AddToQueue(job, now_.monotonic_nanos + record.retry_delay_nanos);
  }
  if (!HasLiveAttempt(record.state)) return;
  for (const WorkerShare& share : record.placement) {
    WorkerState& worker = workers_[share.worker_id];
    worker.info.worker_id = share.worker_id;
    worker.info.slots += share.slots;
    worker.last_seen_nanos = now_.monotonic_nanos;
    UpdateSlots(share.worker_id);
    const int64_t term = NIBBLE_PLANTED("no_term_after_restart") ? 1 : options_.lease_term_nanos;
    leases_.Renew(LeaseKey(record.job_id, share.worker_id), now_.monotonic_nanos,
                  now_.monotonic_nanos + term);
    shares_.Hold(job.project, share.slots, clock_nanos());
  }
  NIBBLE_CHECK(tracker_.Reserve({record.job_id, record.attempt}, record.placement).ok());
  if (record.state == JobState::kStarting || record.state == JobState::kRunning) {
    CountRunning(job, 1);
  }
  if (record.document->max_run_nanos > 0) {
    run_deadlines_.emplace(record.attempt_clock_nanos + record.document->max_run_nanos,
                           record.job_id);
  }
  if (record.state == JobState::kPausing) {
    job.pause_deadline_nanos = now_.monotonic_nanos + options_.pause_grace_nanos;
    pause_deadlines_.emplace(job.pause_deadline_nanos, record.job_id);
  }
}

void Scheduler::Machine::Handle(const Tick&) {
  // Renewals that waited behind a stall of the daemon must not be overtaken by the expiry of what
  // they renew.
  const bool stalled = now_.monotonic_nanos - last_tick_nanos_ > options_.lease_term_nanos / 3;
  last_tick_nanos_ = now_.monotonic_nanos;
  if (stalled && !NIBBLE_PLANTED("stall_not_forgiven")) return GrantTermAfterStall();
  WatchWorkers();
  ExpireLeases();
  EndOverdue();
  ReviewReservation();
  PersistUsage();
}

void Scheduler::Machine::EndOverdue() {
  while (!NIBBLE_PLANTED("run_time_ignored") && !run_deadlines_.empty() &&
         run_deadlines_.begin()->first <= clock_nanos()) {
    LiveJob& job = jobs_.At(run_deadlines_.begin()->second);
    run_deadlines_.erase(run_deadlines_.begin());
    // One that pauses has a deadline already.
    if (job.record.state != JobState::kRunning && job.record.state != JobState::kStarting) continue;
    Transition(job,
               {JobState::kStopping, JobReason::kRunTimeExceeded,
                absl::StrCat("attempt ", job.record.attempt, " has held its slots for ",
                             job.record.document->max_run_nanos / 1'000'000'000,
                             " s, its scheduling.max_run_time")},
               kActor);
  }
  while (!pause_deadlines_.empty() && pause_deadlines_.begin()->first <= now_.monotonic_nanos) {
    LiveJob& job = jobs_.At(pause_deadlines_.begin()->second);
    pause_deadlines_.erase(pause_deadlines_.begin());
    job.pause_overdue = true;
    for (const WorkerShare& share : job.record.placement) {
      changed_workers_.insert(share.worker_id);
    }
    Note(job,
         {JobState::kPausing, job.record.reason,
          "did not checkpoint in time; its trainer is stopped"},
         kActor);
  }
}

void Scheduler::Machine::PersistUsage() {
  const int64_t clock = clock_nanos();
  if (clock < next_usage_nanos_) return;
  next_usage_nanos_ = clock + kUsageNanos;
  for (int project = 0; project < shares_.size(); ++project) {
    const double usage = shares_.Usage(project, clock);
    if (usage <= 0) continue;
    transaction_.usages.push_back({shares_.options(project).name, usage, clock});
  }
}

void Scheduler::Machine::GrantTermAfterStall() {
  for (const std::string& job_id : leases_.JobIds()) {
    leases_.Extend(job_id, now_.monotonic_nanos + options_.lease_term_nanos);
  }
  for (auto& [worker_id, worker] : workers_) {
    if (worker.online) worker.last_seen_nanos = now_.monotonic_nanos;
  }
  alerts_.push_back({AlertKind::kDaemonStalled,
                     "the daemon stood still for longer than a third of a lease term; every lease "
                     "gets a full term"});
}

void Scheduler::Machine::ExpireLeases() {
  const int64_t now = now_.monotonic_nanos;
  const std::vector<std::string> expired = leases_.Expired(now);
  if (expired.empty()) return;
  // Renewals come every third of a term, so a lease that missed two of them is about to expire too:
  // counting those as well makes the guard see a cut network at the first expiry, not the last.
  const size_t silent = leases_.CountSilentSince(now - options_.lease_term_nanos * 2 / 3);
  const size_t total = leases_.size();
  const bool mass =
      silent >= kMassExpiryLeases && silent * 2 > total && !NIBBLE_PLANTED("mass_expiry");
  for (const std::string& lease : expired) {
    const size_t slash = lease.find('/');
    const std::string worker_id = lease.substr(slash + 1);
    LiveJob* const job = FindLive(lease.substr(0, slash));
    // It may have ended with another worker's part just now.
    if (job == nullptr || ShareOn(job->record, worker_id) == nullptr) continue;
    // Past the orphan limit the worker has killed its trainers by itself.
    if (mass && leases_.LastRenewal(lease) + options_.orphan_limit_nanos > now) {
      leases_.Extend(lease, now + options_.lease_term_nanos);
      continue;
    }
    const std::string message = absl::StrCat(
        "worker ", worker_id, " did not renew the lease of attempt ", job->record.attempt);
    LoseAttempt(*job, Trainer::kUnknown, worker_id,
                {JobState::kQueued, JobReason::kLeaseExpired, message}, kActor);
  }
  if (mass && (!hold_alerted_ || now - last_hold_alert_nanos_ >= options_.lease_term_nanos)) {
    hold_alerted_ = true;
    last_hold_alert_nanos_ = now;
    alerts_.push_back(
        {AlertKind::kMassExpiryHeld,
         absl::StrCat(silent, " of ", total, " leases would expire at once; they are held")});
  }
}

void Scheduler::Machine::WatchWorkers() {
  const int64_t now = now_.monotonic_nanos;
  for (auto it = workers_.begin(); it != workers_.end();) {
    WorkerState& worker = it->second;
    const int64_t silence = now - worker.last_seen_nanos;
    if (worker.online && silence >= options_.lease_term_nanos) worker.online = false;
    if (!worker.online && silence >= options_.orphan_limit_nanos) {
      // The worker has killed what it could not renew.
      const std::set<AttemptId> zombies = worker.zombies;
      for (const AttemptId& attempt : zombies) FreeZombie(worker, attempt);
    }
    UpdateSlots(it->first);
    const bool forget = !worker.online && silence >= options_.forget_worker_nanos &&
                        tracker_.RemoveWorker(it->first).ok();
    if (forget) {
      it = workers_.erase(it);
      continue;
    }
    ++it;
  }
}

}  // namespace nibble::scheduler
