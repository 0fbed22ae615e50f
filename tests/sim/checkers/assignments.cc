#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

using scheduler::AssignmentAction;
using scheduler::JobRecord;
using scheduler::JobState;

class AssignmentChecker : public Checker {
 public:
  using Checker::Checker;

  void DaemonStarts() override {
    current_.clear();
    for (auto& [job_id, at] : pausing_since_) at = now();  // its grace begins anew
  }

  void Committed(const scheduler::Transaction& t) override {
    dirty_ = true;
    for (const auto& event : t.events) {
      if (event.after == JobState::kPausing && event.before != event.after) {
        pausing_since_[event.job_id] = now();
      }
    }
  }

  void Accepted(const WorkerCall& call, const std::vector<scheduler::AttemptId>&,
                const std::vector<scheduler::AttemptId>&) override {
    if (call.kind != "register") return;
    current_[call.worker] = call.incarnation;
    dirty_ = true;
  }

  // The board says what the rows say, also to a worker that asks later.
  void DaemonRests(coordinator::Coordinator& coordinator) override {
    if (!std::exchange(dirty_, false)) return;
    for (const auto& [worker, incarnation] : current_) {
      const auto snapshot = coordinator.assignments().Read(worker, incarnation);
      if (snapshot.ok()) CheckList(worker, *snapshot);
    }
  }

 private:
  void CheckList(const std::string& worker, const coordinator::AssignmentSnapshot& list) {
    std::map<scheduler::AttemptId, const JobRecord*> wanted;
    for (const auto& [job_id, job] : site_.rows.jobs) {
      const scheduler::AttemptId attempt{job_id, job.attempt};
      if (site_.rows.IsLive(attempt, worker)) wanted[attempt] = &job;
    }
    for (const auto& assignment : list.assignments) {
      const auto found = wanted.find(assignment.attempt);
      if (found == wanted.end()) {
        return Fail(absl::StrCat(worker, " is told to hold ", Name(assignment.attempt),
                                 ", which is not live there"));
      }
      CheckOne(*found->second, assignment);
      wanted.erase(found);
    }
    if (!wanted.empty()) {
      Fail(absl::StrCat(worker, " is not told of ", Name(wanted.begin()->first)));
    }
    std::vector<std::string> purges;
    for (const auto& purge : site_.rows.purges) {
      if (purge.worker_id == worker) purges.push_back(purge.job_id);
    }
    std::vector<std::string> told = list.purge_job_ids;
    std::sort(told.begin(), told.end());
    if (told != purges) Fail(absl::StrCat(worker, " is told of other purges than are due"));
  }

  void CheckOne(const JobRecord& job, const scheduler::Assignment& assignment) {
    const std::string name = Name(assignment.attempt);
    const bool graced = now() < pausing_since_[job.job_id] + site_.options->pause_grace_nanos;
    switch (assignment.action) {
      case AssignmentAction::kRun:
        if (job.state != JobState::kStarting && job.state != JobState::kRunning) {
          Fail(absl::StrCat(name, " is told to run and is ", JobStateName(job.state)));
        }
        break;
      case AssignmentAction::kPause:
        if (job.state != JobState::kPausing) {
          Fail(absl::StrCat(name, " is told to pause and is ", JobStateName(job.state)));
        }
        break;
      case AssignmentAction::kStop:
        if (job.state == JobState::kPausing && graced) {
          Fail(absl::StrCat(name, " is stopped without time to checkpoint"));
        }
        if (job.state != JobState::kPausing && job.state != JobState::kStopping) {
          Fail(absl::StrCat(name, " is stopped and is ", JobStateName(job.state)));
        }
        break;
    }
    const scheduler::CheckpointRecord* const newest = site_.rows.Newest(job.job_id);
    const bool same = newest == nullptr ? !assignment.resume_from.has_value()
                                        : assignment.resume_from.has_value() &&
                                              *assignment.resume_from == *newest;
    if (!same) Fail(absl::StrCat(name, " is not to resume from the newest checkpoint"));
    if (!(assignment.placement == job.placement)) Fail(absl::StrCat(name, ": another placement"));
    if (assignment.document->spec != job.document->spec) {
      Fail(absl::StrCat(name, ": another document"));
    }
  }

  bool dirty_ = false;
  std::map<std::string, std::string> current_;  // incarnation, by worker
  std::map<std::string, int64_t> pausing_since_;
};

}  // namespace

std::unique_ptr<Checker> MakeAssignmentChecker(Site* site) {
  return std::make_unique<AssignmentChecker>(site);
}

}  // namespace nibble::sim
