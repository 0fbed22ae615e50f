#include <numeric>
#include <set>
#include <string>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

using scheduler::FailureClass;
using scheduler::JobReason;
using scheduler::JobRecord;
using scheduler::JobState;

class BudgetChecker : public Checker {
 public:
  using Checker::Checker;

  void Committed(const scheduler::Transaction& t) override {
    std::map<std::string, int32_t> lost;
    for (const auto& event : t.events) {
      const bool loss =
          event.reason == JobReason::kLeaseExpired || event.reason == JobReason::kWorkerLost;
      if (loss && event.before != event.after) ++lost[event.job_id];
    }
    std::set<std::string> changed;
    for (const JobRecord& job : t.jobs) changed.insert(job.job_id);
    for (const std::string& job_id : changed) {
      const JobRecord* const job = site_.rows.Find(job_id);
      const auto before = site_.rows.before.find(job_id);
      if (job == nullptr || before == site_.rows.before.end()) continue;
      CheckCounts(*job, before->second, lost[job_id]);
      CheckBounds(*job);
    }
  }

  void Accepted(const WorkerCall& call, const std::vector<scheduler::AttemptId>&,
                const std::vector<scheduler::AttemptId>&) override {
    if (call.kind != "report" || call.status != v1::ReportAttemptRequest::FAILED) return;
    failed_[call.attempts[0].job_id].insert(call.attempts[0].attempt);
    const JobRecord* const job = site_.rows.Find(call.attempts[0].job_id);
    if (job == nullptr) return;
    if (job->failures < static_cast<int32_t>(failed_[job->job_id].size())) {
      Fail(absl::StrCat(job->job_id, ": a failure was acknowledged and not counted"));
    }
  }

 private:
  void CheckCounts(const JobRecord& job, const JobRecord& before, int32_t lost) {
    const int32_t failed = job.failures - before.failures;
    const bool progress = job.committed_step > before.committed_step;
    if (failed < 0) Fail(absl::StrCat(job.job_id, ": failures were forgotten"));
    if (!progress && job.failures_without_progress != before.failures_without_progress + failed) {
      Fail(absl::StrCat(job.job_id, ": its count of failures without progress is ",
                        job.failures_without_progress, ", not ",
                        before.failures_without_progress + failed));
    }
    if (!progress && job.losses_without_progress < before.losses_without_progress + lost) {
      Fail(absl::StrCat(job.job_id, ": losses without progress were forgotten"));
    }
    const int32_t by_class =
        std::accumulate(job.class_failures.begin(), job.class_failures.end(), 0);
    if (by_class != job.failures_without_progress) {
      Fail(absl::StrCat(job.job_id, ": failures by class are not all failures"));
    }
    if ((job.failures_without_progress == 0) != job.failed_workers.empty()) {
      Fail(absl::StrCat(job.job_id, ": the workers it failed on do not match its failures"));
    }
  }

  int32_t Of(const JobRecord& job, FailureClass failure_class) const {
    const size_t index = static_cast<size_t>(failure_class);
    return index < job.class_failures.size() ? job.class_failures[index] : 0;
  }

  // SERVICE.md's budgets: past one, the job has ended; within all, it has not.
  void CheckBounds(const JobRecord& job) {
    const bool user = Of(job, FailureClass::kUser) > 0;
    const bool budget = Of(job, FailureClass::kData) > 1 || Of(job, FailureClass::kOutOfMemory) > 2;
    const bool stuck = job.failures_without_progress > job.document->max_failures;
    const bool poison = job.failed_workers.size() >= site_.options->poison_workers;
    const bool lossy = job.losses_without_progress > site_.options->max_losses_without_progress;
    const bool tries_again = job.state == JobState::kQueued || job.state == JobState::kStarting ||
                             job.state == JobState::kRunning;
    // A job that failed while it was told to pause or to give way keeps its counts for later.
    const bool by_failure = job.reason == JobReason::kTrainerFailed;
    if (tries_again && by_failure && (user || budget || stuck || poison)) {
      Fail(absl::StrCat(job.job_id, ": tries again past its budget"));
    }
    if (job.state != JobState::kFailed) return;
    bool just = true;
    switch (job.reason) {
      case JobReason::kTrainerFailed:
        just = user;
        break;
      case JobReason::kNoProgress:
        just = stuck;
        break;
      case JobReason::kPoisonJob:
        just = poison;
        break;
      case JobReason::kRestartBudgetExhausted:
        just = budget || lossy;
        break;
      case JobReason::kRunTimeExceeded:
        just = job.document->max_run_nanos > 0;
        break;
      default:
        just = false;
    }
    if (!just) {
      Fail(absl::StrCat(job.job_id, ": failed for ", scheduler::JobReasonName(job.reason),
                        " without cause"));
    }
  }

  std::map<std::string, std::set<int64_t>> failed_;  // attempts, by job
};

}  // namespace

std::unique_ptr<Checker> MakeBudgetChecker(Site* site) {
  return std::make_unique<BudgetChecker>(site);
}

}  // namespace nibble::sim
