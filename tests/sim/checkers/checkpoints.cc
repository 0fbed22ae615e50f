#include <map>
#include <set>
#include <string>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

using scheduler::CheckpointRecord;

class CheckpointChecker : public Checker {
 public:
  using Checker::Checker;

  void Committed(const scheduler::Transaction& t) override {
    std::set<std::string> changed;
    for (const CheckpointRecord& added : t.checkpoints) {
      const scheduler::JobRecord* const job = site_.rows.Find(added.job_id);
      if (job == nullptr) continue;
      std::set<int64_t>& steps = wanted_[added.job_id];
      // What came after the checkpoint that an attempt had to start from is not of its lineage.
      steps.erase(steps.lower_bound(added.step), steps.end());
      steps.insert(added.step);
      while (steps.size() > static_cast<size_t>(job->document->keep_checkpoints)) {
        steps.erase(steps.begin());
      }
      changed.insert(added.job_id);
      if (added.step > job->committed_step) {
        Fail(absl::StrCat(added.job_id, ": its committed step is behind its checkpoint"));
      }
    }
    for (const CheckpointRecord& removed : t.removed_checkpoints) changed.insert(removed.job_id);
    for (const std::string& job_id : changed) {
      if (site_.rows.Find(job_id) != nullptr) Verify(job_id);
    }
  }

  void CheckpointRemoved(const std::string& path) override {
    for (const auto& [job_id, checkpoints] : site_.rows.checkpoints) {
      for (const auto& [step, checkpoint] : checkpoints) {
        if (checkpoint.path == path) Fail(absl::StrCat("a kept checkpoint was removed: ", path));
      }
    }
  }

  void Finished() override {
    for (const auto& [job_id, job] : site_.rows.jobs) Verify(job_id);
  }

 private:
  void Verify(const std::string& job_id) {
    static const std::map<int64_t, CheckpointRecord> kNone;
    const auto found = site_.rows.checkpoints.find(job_id);
    const auto& rows = found == site_.rows.checkpoints.end() ? kNone : found->second;
    const std::set<int64_t>& wanted = wanted_[job_id];
    bool same = rows.size() == wanted.size();
    for (const auto& [step, checkpoint] : rows) same = same && wanted.count(step) != 0;
    if (!same) {
      return Fail(absl::StrCat(job_id, ": ", rows.size(), " checkpoints are kept, not the newest ",
                               wanted.size()));
    }
    const Plan& plan = site_.plans->at(site_.rows.Find(job_id)->document->name);
    for (const auto& [step, checkpoint] : rows) {
      const std::optional<SavedState> saved = site_.disk->Read(checkpoint.path);
      if (!saved.has_value()) {
        return Fail(absl::StrCat("a committed checkpoint is not there: ", checkpoint.path));
      }
      if (saved->step != step || saved->Digest() != checkpoint.manifest_digest ||
          saved->weights != WeightsAfter(plan.seed, step)) {
        return Fail(absl::StrCat("a committed checkpoint holds other weights: ", checkpoint.path));
      }
    }
  }

  std::map<std::string, std::set<int64_t>> wanted_;
};

}  // namespace

std::unique_ptr<Checker> MakeCheckpointChecker(Site* site) {
  return std::make_unique<CheckpointChecker>(site);
}

}  // namespace nibble::sim
