// Start and the passing of time: recovery, expiry of leases, silent workers.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {
namespace {

constexpr char kActor[] = "scheduler";

// R3: so many leases, and more than half, never expire at once.
constexpr size_t kMassExpiryLeases = 3;

}  // namespace

void Scheduler::Machine::Handle(const Recovered& event) {
  recovered_ = true;
  last_event_id_ = event.last_event_id;
  last_submit_sequence_ = event.last_submit_sequence;
  for (const PurgeRecord& purge : event.purges) {
    purges_[purge.worker_id].insert(purge.job_id);
    if (purge.worker_id.empty()) metric_purges_.push_back({purge.job_id});
  }
  for (const Recovered::Job& row : event.jobs) {
    const JobRecord& record = row.record;
    NIBBLE_CHECK(!IsTerminal(record.state) && record.document != nullptr);
    LiveJob& job = jobs_[record.job_id];
    job.record = record;
    job.checkpoints = row.checkpoints;
    std::sort(job.checkpoints.begin(), job.checkpoints.end(),
              [](const auto& a, const auto& b) { return a.step > b.step; });
    ++stats_.jobs_by_state[static_cast<int>(record.state)];
    if (!record.document->request_key.empty()) {
      job_of_key_[record.document->request_key] = record.job_id;
    }
    if (record.state == JobState::kQueued) {
      const bool failed = record.reason == JobReason::kTrainerFailed;
      AddToQueue(job, now_.monotonic_nanos +
                          (failed ? BackoffNanos(record.failures_without_progress) : 0));
    }
    if (!HasLiveAttempt(record.state)) continue;
    WorkerState& worker = workers_[record.worker_id];
    worker.info.worker_id = record.worker_id;
    worker.info.slots += record.document->slots;
    worker.last_seen_nanos = now_.monotonic_nanos;
    UpdateSlots(record.worker_id);
    NIBBLE_CHECK(
        tracker_.Reserve({record.job_id, record.attempt}, record.worker_id, record.document->slots)
            .ok());
    leases_.Renew(record.job_id, now_.monotonic_nanos,
                  now_.monotonic_nanos + options_.lease_term_nanos);
  }
}

void Scheduler::Machine::Handle(const Tick&) {
  // Renewals that waited behind a stall of the daemon must not be overtaken by the expiry of what
  // they renew.
  const bool stalled =
      ticked_ && now_.monotonic_nanos - last_tick_nanos_ > options_.lease_term_nanos / 3;
  last_tick_nanos_ = now_.monotonic_nanos;
  ticked_ = true;
  if (stalled) return GrantTermAfterStall();
  WatchWorkers();
  ExpireLeases();
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
  const bool mass = silent >= kMassExpiryLeases && silent * 2 > total;
  for (const std::string& job_id : expired) {
    // Past the orphan limit the worker has killed its trainers by itself.
    if (mass && leases_.LastRenewal(job_id) + options_.orphan_limit_nanos > now) {
      leases_.Extend(job_id, now + options_.lease_term_nanos);
      continue;
    }
    LiveJob* const job = FindLive(job_id);
    NIBBLE_CHECK(job != nullptr);
    const std::string message =
        absl::StrCat("worker ", job->record.worker_id, " did not renew the lease of attempt ",
                     job->record.attempt);
    LoseAttempt(*job, Trainer::kUnknown, {JobState::kQueued, JobReason::kLeaseExpired, message},
                kActor);
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
