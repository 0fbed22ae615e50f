#include <map>
#include <string>
#include <utility>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

using scheduler::JobRecord;
using scheduler::JobState;

class GaugeChecker : public Checker {
 public:
  using Checker::Checker;

  void Committed(const scheduler::Transaction&) override { dirty_ = true; }

  void Counts(const telemetry::ControlPlaneCounts& counts) override {
    std::map<std::string, int64_t> by_state;
    int64_t queued = 0, leases = 0;
    int32_t held = 0;
    for (const auto& [job_id, job] : site_.rows.jobs) {
      ++by_state[std::string(scheduler::JobStateName(job.state))];
      if (job.state == JobState::kQueued) ++queued;
      leases += static_cast<int64_t>(job.placement.size());
      for (const auto& share : job.placement) held += share.slots;
    }
    for (const auto& [state, count] : counts.jobs_by_state) {
      if (count != by_state[state]) {
        Fail(absl::StrCat("the gauge of ", state, " is ", count, "; there are ", by_state[state]));
      }
    }
    if (counts.queue_depth != queued) {
      Fail(absl::StrCat("the queue's depth is ", counts.queue_depth, "; ", queued, " are queued"));
    }
    if (counts.leases != leases) {
      Fail(absl::StrCat("the gauge of leases is ", counts.leases, "; there are ", leases));
    }
    if (counts.slots_used < held || counts.slots_used > counts.slots_total) {
      Fail(absl::StrCat(counts.slots_used, " of ", counts.slots_total, " slots in use; jobs hold ",
                        held));
    }
  }

  void DaemonRests(coordinator::Coordinator& coordinator) override {
    if (!std::exchange(dirty_, false)) return;
    std::map<std::string, scheduler::ProjectInfo> wanted;
    for (const auto& [job_id, job] : site_.rows.jobs) {
      if (scheduler::IsTerminal(job.state)) continue;
      scheduler::ProjectInfo& project = wanted[job.document->project];
      ++project.unfinished;
      if (job.state == JobState::kQueued) ++project.queued;
      for (const auto& share : job.placement) project.held += share.slots;
    }
    for (const scheduler::ProjectInfo& project : coordinator.Projects()) {
      const scheduler::ProjectInfo& rows = wanted[project.options.name];
      if (project.held != rows.held || project.queued != rows.queued ||
          project.unfinished != rows.unfinished) {
        Fail(absl::StrCat("project ", project.options.name, " holds ", project.held, ", queues ",
                          project.queued, " of ", project.unfinished, "; rows say ", rows.held,
                          ", ", rows.queued, " of ", rows.unfinished));
      }
      const auto& limit = project.options.limit_slots;
      if (limit.has_value() && project.held > *limit) {
        Fail(absl::StrCat("project ", project.options.name, " is over its limit"));
      }
    }
    for (const scheduler::WorkerInfo& worker : coordinator.Workers()) CheckWorker(worker);
    for (const auto& [job_id, job] : site_.rows.jobs) {
      const bool live = !scheduler::IsTerminal(job.state);
      if (coordinator.Explain(job_id).has_value() != live) {
        Fail(absl::StrCat("job ", job_id, " cannot be explained, or should not be"));
      }
    }
  }

 private:
  void CheckWorker(const scheduler::WorkerInfo& worker) {
    const auto row = site_.rows.workers.find(worker.worker_id);
    const bool drained = row != site_.rows.workers.end() && row->second.drained;
    if (worker.drained != drained) {
      Fail(absl::StrCat(worker.worker_id,
                        drained ? " is drained and shown open" : " is open and shown drained"));
    }
    if (worker.slots_used > worker.slots) {
      Fail(absl::StrCat(worker.worker_id, " has ", worker.slots_used, " of ", worker.slots,
                        " slots in use"));
    }
  }

  bool dirty_ = false;
};

}  // namespace

std::unique_ptr<Checker> MakeGaugeChecker(Site* site) {
  return std::make_unique<GaugeChecker>(site);
}

}  // namespace nibble::sim
