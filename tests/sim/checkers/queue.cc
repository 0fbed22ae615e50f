#include <map>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

using scheduler::JobRecord;
using scheduler::JobState;

// Longer than every wait of the scheduler that nobody holds slots for.
constexpr int64_t kIdleNanos = 60 * kSeconds;
// The longest job of a stream, and a half.
constexpr int64_t kHeadNanos = 30 * kSeconds;
// A job counts as waiting once a tick has seen it.
constexpr int64_t kSeenNanos = 2 * kSeconds;

class QueueChecker : public Checker {
 public:
  using Checker::Checker;

  void DaemonStarts() override {
    idle_since_ = now();
    for (auto& [job_id, at] : ready_at_) at = now() + site_.options->backoff_max_nanos;
  }

  void Committed(const scheduler::Transaction& t) override {
    std::set<std::string> moved;
    for (const auto& event : t.events) moved.insert(event.job_id);
    for (const auto& event : t.events) {
      const JobRecord* const job = site_.rows.Find(event.job_id);
      if (job == nullptr || event.before == event.after) continue;
      if (event.after == JobState::kQueued) {
        ready_at_[event.job_id] = now() + job->retry_delay_nanos;
        if (job->state != JobState::kQueued) ready_at_[event.job_id] = now();
      }
      if (event.after == JobState::kStarting) {
        began_[event.job_id] = now();
        CheckOrder(*job, moved);
      }
      if (event.reason == scheduler::JobReason::kPreempted && event.after == JobState::kPausing) {
        CheckPreemption(*job, event.cause, moved);
      }
    }
    if (site_.stream) CheckHead();
  }

  void DaemonRests(coordinator::Coordinator& coordinator) override {
    if (now() - last_rest_ > 5 * kSeconds) idle_since_ = now();
    last_rest_ = now();
    bool waits = false;
    for (const auto& [job_id, job] : site_.rows.jobs) {
      if (!job.placement.empty()) idle_since_ = now();
      waits = waits || (job.state == JobState::kQueued && ready_at_[job_id] < now());
    }
    if (!waits || !site_.trainers.empty()) idle_since_ = now();
    if (now() - idle_since_ <= kIdleNanos) return;
    for (const scheduler::WorkerInfo& worker : coordinator.Workers()) {
      if (!worker.online || worker.drained) continue;
      // Every job fits on every worker.
      Fail(absl::StrCat("jobs wait and nothing runs, though ", worker.worker_id, " is there"));
    }
  }

 private:
  // Slots are kept for the head of the queue: it waits for jobs that run, and for none that comes
  // later.
  void CheckHead() {
    const JobRecord* head = nullptr;
    for (const auto& [job_id, job] : site_.rows.jobs) {
      if (job.state != JobState::kQueued) continue;
      if (head == nullptr || job.submit_sequence < head->submit_sequence) head = &job;
    }
    const std::string head_id = head == nullptr ? "" : head->job_id;
    if (head_id != head_) head_since_ = now();
    head_ = head_id;
    if (head != nullptr && now() - head_since_ > kHeadNanos) {
      Fail(absl::StrCat(head_, " waits at the head of the queue while others start"));
    }
  }

  // Who gives way: only one that may be preempted, that has had its guaranteed time, and within a
  // project only to a higher priority.
  void CheckPreemption(const JobRecord& victim, const std::string& cause,
                       const std::set<std::string>& moved) {
    const std::string name = absl::StrCat(victim.job_id, " was preempted");
    if (!victim.document->preemptible) Fail(absl::StrCat(name, " and is not preemptible"));
    if (now() - began_[victim.job_id] < site_.options->min_run_nanos) {
      Fail(absl::StrCat(name, " before its guaranteed time was over"));
    }
    const JobRecord* const preemptor =
        absl::StartsWith(cause, "job:") ? site_.rows.Find(cause.substr(4)) : nullptr;
    if (preemptor == nullptr) return Fail(absl::StrCat(name, " for nobody"));
    // Its priority may have changed since, in the same group of steps.
    if (moved.count(preemptor->job_id) != 0) return;
    if (preemptor->document->project == victim.document->project &&
        preemptor->document->priority <= victim.document->priority) {
      Fail(absl::StrCat(name, " for a job of no higher priority"));
    }
  }

  int64_t OrderOf(const JobRecord& job) const {
    return job.queued_clock_nanos - int64_t{job.document->priority} * site_.options->ageing_nanos;
  }

  void CheckOrder(const JobRecord& started, const std::set<std::string>& moved) {
    for (const auto& [job_id, job] : site_.rows.jobs) {
      if (job.state != JobState::kQueued || moved.count(job_id) != 0) continue;
      if (ready_at_[job_id] > now() - kSeenNanos) continue;
      const scheduler::JobDocument &a = *job.document, &b = *started.document;
      if (a.slots != b.slots || a.project != b.project || a.max_run_nanos != b.max_run_nanos ||
          job.failed_workers != started.failed_workers) {
        continue;
      }
      // One that had to make room for a higher priority goes behind it.
      if (job.preemptions > 0 && a.priority < b.priority) continue;
      if (OrderOf(job) < OrderOf(started)) {
        Fail(absl::StrCat(started.job_id, " overtook ", job_id, ", which is like it"));
      }
    }
  }

  std::map<std::string, int64_t> ready_at_;
  std::map<std::string, int64_t> began_;
  std::string head_;
  int64_t head_since_ = 0;
  int64_t idle_since_ = 0;
  int64_t last_rest_ = 0;
};

}  // namespace

std::unique_ptr<Checker> MakeQueueChecker(Site* site) {
  return std::make_unique<QueueChecker>(site);
}

}  // namespace nibble::sim
