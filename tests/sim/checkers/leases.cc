#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

// The scheduler ticks every second; a gap of a third of a term is a stall (R3, R4).
constexpr int64_t kStallNanos = 6 * kSeconds;
// Ticks may be this close to such a gap and be one.
constexpr int64_t kNearStallNanos = 3 * kSeconds;
constexpr int64_t kSlackNanos = 5 * kSeconds;

class LeaseChecker : public Checker {
 public:
  using Checker::Checker;

  // After a restart of the daemon every lease gets one full term.
  void DaemonStarts() override {
    GrantAll();
    for (auto& [attempt, at] : renewed_) at = now();
    last_rest_ = now();
  }

  void SchedulerRestarts() override { GrantAll(); }

  void Committed(const scheduler::Transaction& t) override {
    for (const auto& event : t.events) {
      if (event.after != scheduler::JobState::kStarting || event.before == event.after) continue;
      granted_[{event.job_id, event.attempt}] = now();
      renewed_[{event.job_id, event.attempt}] = now();
      started_[event.job_id] = now();
    }
    for (const auto& event : t.events) {
      if (event.reason != scheduler::JobReason::kLeaseExpired) continue;
      const int64_t term = site_.options->lease_term_nanos;
      const int64_t since = now() - granted_[{event.job_id, event.attempt}];
      if (since < term) {
        Fail(absl::StrCat("the lease of attempt ", event.attempt, " of ", event.job_id, " expired ",
                          since / kMillis, " ms after it was granted"));
      }
      if (now() - last_rest_ > kStallNanos) {
        Fail("a lease expired because the daemon stood still");
      }
      CheckNotMany(t, {event.job_id, event.attempt});
    }
  }

  void Accepted(const WorkerCall& call, const std::vector<scheduler::AttemptId>& granted,
                const std::vector<scheduler::AttemptId>&) override {
    if (call.kind != "register" && call.kind != "renew") return;
    for (const auto& attempt : granted) granted_[attempt] = renewed_[attempt] = now();
  }

  void DaemonRests(coordinator::Coordinator&) override {
    const int64_t gap = now() - last_rest_;
    if (gap > kStallNanos) GrantAll();
    // Perhaps a stall: a term that may have begun, and need not.
    if (gap > kNearStallNanos) near_stall_ = now();
    last_rest_ = now();
    size_t leases = 0, silent = 0;
    const int64_t term = site_.options->lease_term_nanos;
    for (const auto& [job_id, job] : site_.rows.jobs) {
      if (job.placement.empty()) continue;
      ++leases;
      if (now() - std::max(granted_[{job_id, job.attempt}], near_stall_) > term / 2) ++silent;
    }
    // Where many fall silent at once none expires before the orphan limit.
    const bool may_be_held = leases >= 3 || silent >= 3;
    const int64_t limit =
        term + kSlackNanos + (may_be_held ? site_.options->orphan_limit_nanos + 2 * term : 0);
    for (const auto& [job_id, job] : site_.rows.jobs) {
      if (job.placement.empty()) continue;
      const int64_t granted = std::max(granted_[{job_id, job.attempt}], near_stall_);
      CheckRunTime(job);
      if (may_be_held) held_[job_id] = now();
      const int64_t since = std::max(granted, held_[job_id]);
      if (now() - (may_be_held ? granted : since) <= limit) continue;
      Fail(absl::StrCat("job ", job_id, " keeps a lease that nobody has renewed for ",
                        (now() - granted) / kSeconds, " s"));
    }
  }

 private:
  void GrantAll() {
    for (auto& [attempt, at] : granted_) at = now();
    for (auto& [job_id, at] : started_) at = now();
  }

  // R3: where more than half of the leases, and at least three, fall silent, none expires before
  // the orphan limit.
  void CheckNotMany(const scheduler::Transaction& t, const scheduler::AttemptId& expired) {
    std::set<scheduler::AttemptId> leases;
    for (const auto& event : t.events) {
      if (event.reason == scheduler::JobReason::kLeaseExpired) {
        leases.insert({event.job_id, event.attempt});
      }
    }
    for (const auto& [job_id, job] : site_.rows.jobs) {
      const scheduler::AttemptId attempt{job_id, job.attempt};
      if (!job.placement.empty() && renewed_[attempt] < now()) leases.insert(attempt);
    }
    size_t silent = 0;
    for (const auto& attempt : leases) {
      if (now() - renewed_[attempt] > site_.options->lease_term_nanos * 2 / 3) ++silent;
    }
    const bool limit = now() - renewed_[expired] >= site_.options->orphan_limit_nanos;
    if (silent >= 3 && silent * 2 > leases.size() && !limit) {
      Fail(absl::StrCat(silent, " of ", leases.size(), " leases were silent, and one expired"));
    }
  }

  void CheckRunTime(const scheduler::JobRecord& job) {
    const int64_t bound = job.document->max_run_nanos;
    const bool runs =
        job.state == scheduler::JobState::kStarting || job.state == scheduler::JobState::kRunning;
    if (bound > 0 && runs && now() - started_[job.job_id] > bound + kSlackNanos) {
      Fail(absl::StrCat(job.job_id, " runs on past its max_run_time"));
    }
  }

  std::map<scheduler::AttemptId, int64_t> granted_;  // with terms after restarts and stalls
  std::map<scheduler::AttemptId, int64_t> renewed_;  // by the worker
  std::map<std::string, int64_t> started_;
  std::map<std::string, int64_t> held_;
  int64_t last_rest_ = 0;
  int64_t near_stall_ = 0;  // newest
};

}  // namespace

std::unique_ptr<Checker> MakeLeaseChecker(Site* site) {
  return std::make_unique<LeaseChecker>(site);
}

}  // namespace nibble::sim
