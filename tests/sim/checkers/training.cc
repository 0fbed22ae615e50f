#include <map>
#include <set>
#include <string>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

using scheduler::JobRecord;
using scheduler::JobState;

class TrainingChecker : public Checker {
 public:
  using Checker::Checker;

  void TrainerLaunched(const TrainerView& trainer) override {
    if (!launched_.insert(trainer.attempt).second) {
      Fail(absl::StrCat(Name(trainer.attempt), " was started twice: two streams of one epoch"));
    }
  }

  // What was committed is where it goes on: no step is lost, none is trained again unseen.
  void TrainerLoaded(const TrainerView& trainer, int64_t step, uint64_t weights) override {
    started_from_[trainer.attempt] = step;
    if (!site_.rows.IsLive(trainer.attempt, trainer.worker)) return;
    const JobRecord& job = *site_.rows.Find(trainer.attempt.job_id);
    const scheduler::CheckpointRecord* const newest = site_.rows.Newest(job.job_id);
    const int64_t wanted = newest == nullptr ? 0 : newest->step;
    if (step != wanted) {
      Fail(absl::StrCat(Name(trainer.attempt), " starts from step ", step, "; committed is ",
                        wanted));
    }
    const Plan& plan = site_.plans->at(job.document->name);
    if (weights != WeightsAfter(plan.seed, step)) {
      Fail(absl::StrCat(Name(trainer.attempt), " starts from other weights"));
    }
  }

  // R2: a checkpoint counts only after every metric row before it is there.
  void Accepted(const WorkerCall& call, const std::vector<scheduler::AttemptId>&,
                const std::vector<scheduler::AttemptId>&) override {
    if (call.kind != "commit" || site_.metrics->lost_jobs().count(call.attempts[0].job_id) != 0) {
      return;
    }
    const scheduler::CheckpointRecord* const newest = site_.rows.Newest(call.attempts[0].job_id);
    if (newest == nullptr || newest->attempt != call.attempts[0].attempt) return;
    const auto there = site_.metrics->LastSequence({call.attempts[0], 0});
    const int64_t trained = newest->step - started_from_[call.attempts[0]];
    if (there.ok() && *there < trained) {
      Fail(absl::StrCat(Name(call.attempts[0]), ": step ", newest->step,
                        " was committed before its metrics"));
    }
  }

  void Finished() override {
    for (const auto& [job_id, job] : site_.rows.jobs) {
      const Plan& plan = site_.plans->at(job.document->name);
      CheckMetrics(job, plan);
      if (job.state != JobState::kSucceeded) continue;
      if (plan.fails_at != 0) Fail(absl::StrCat(job_id, ": cannot have succeeded"));
      if (job.result->digest != DigestOf(WeightsAfter(plan.seed, plan.steps)) ||
          job.result->steps != plan.steps) {
        Fail(absl::StrCat(job_id, ": its weights are not those of an undisturbed run"));
      }
    }
  }

 private:
  void CheckMetrics(const JobRecord& job, const Plan& plan) {
    store::MetricQuery query;
    query.job_id = job.job_id;
    const auto page = site_.metrics->Read(query);
    if (!page.ok()) return Fail(absl::StrCat(job.job_id, ": its metrics cannot be read"));
    uint64_t weights = FirstWeights(plan.seed);
    int64_t step = 0;
    for (const store::MetricRow& row : page->rows) {
      const bool whole = site_.metrics->lost_jobs().count(job.job_id) == 0;
      if (row.step <= step || (whole && row.step != step + 1)) {
        return Fail(
            absl::StrCat(job.job_id, ": metrics of step ", row.step, " follow step ", step));
      }
      while (step < row.step) weights = NextWeights(weights, plan.seed, ++step);
      if (row.values.size() != 1 || row.values[0].second != LossOf(weights)) {
        return Fail(absl::StrCat(job.job_id, ": step ", step, " was trained on something else"));
      }
    }
    const bool whole = site_.metrics->lost_jobs().count(job.job_id) == 0;
    if (job.state == JobState::kSucceeded && whole && step != plan.steps) {
      Fail(absl::StrCat(job.job_id, ": metrics end at step ", step, " of ", plan.steps));
    }
  }

  std::set<scheduler::AttemptId> launched_;
  std::map<scheduler::AttemptId, int64_t> started_from_;
};

}  // namespace

std::unique_ptr<Checker> MakeTrainingChecker(Site* site) {
  return std::make_unique<TrainingChecker>(site);
}

}  // namespace nibble::sim
