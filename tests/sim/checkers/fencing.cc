#include <map>
#include <set>
#include <string>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

// From the daemon's answer to the worker's noticing it, or that there is none.
constexpr int64_t kAnswerNanos = 15 * kSeconds;

class FencingChecker : public Checker {
 public:
  using Checker::Checker;

  void DaemonStarts() override { current_.clear(); }
  // Which processes were replaced is known to the scheduler's memory alone.
  void SchedulerRestarts() override { current_.clear(); }

  // R3: a worker that has heard nothing for the orphan limit kills its trainers.
  void TimePasses(const std::set<std::string>& frozen) override {
    for (const std::string& worker : frozen) heard_[worker] = now();
    for (const TrainerView* trainer : site_.trainers) {
      const int64_t silence = now() - heard_[trainer->worker];
      if (!trainer->killed && silence > site_.options->orphan_limit_nanos + kAnswerNanos) {
        Fail(absl::StrCat("a trainer of ", Name(trainer->attempt), " outlives the orphan limit"));
      }
    }
  }

  void Accepted(const WorkerCall& call, const std::vector<scheduler::AttemptId>& granted,
                const std::vector<scheduler::AttemptId>& refused) override {
    heard_[call.worker] = now();
    CheckProcess(call);
    for (size_t i = 0; i < call.attempts.size(); ++i) {
      const scheduler::AttemptId& attempt = call.attempts[i];
      const bool was_granted = Contains(granted, attempt);
      if (was_granted && !call.live[i] && !IsRepeated(call)) {
        Fail(absl::StrCat(call.kind, " of ", Name(attempt), " by ", call.worker,
                          " was accepted: it was not live there"));
      }
      if (Contains(refused, attempt) && call.live[i] && site_.rows.IsLive(attempt, call.worker)) {
        Fail(absl::StrCat(call.kind, " of ", Name(attempt), " by ", call.worker,
                          " was refused: it is live there"));
      }
      if (!was_granted && !Contains(refused, attempt)) {
        Fail(absl::StrCat(call.kind, " said nothing of ", Name(attempt)));
      }
      if (was_granted && call.kind == "register") site_.world->Reached("attempt: adopted");
      if (!was_granted) site_.world->Reached("attempt: refused as stale");
    }
  }

 private:
  struct Process {
    std::string incarnation;
    int64_t since = 0;
  };

  static bool Contains(const std::vector<scheduler::AttemptId>& all,
                       const scheduler::AttemptId& one) {
    for (const auto& each : all) {
      if (each == one) return true;
    }
    return false;
  }

  // A report whose answer was lost comes again.
  bool IsRepeated(const WorkerCall& call) const {
    if (call.kind != "report") return false;
    const scheduler::JobRecord* const job = site_.rows.Find(call.attempts[0].job_id);
    const bool repeated = job != nullptr && job->reported_attempt == call.attempts[0].attempt &&
                          static_cast<int>(job->reported_status) == static_cast<int>(call.status);
    if (repeated) site_.world->Reached("attempt: end reported again");
    return repeated;
  }

  void CheckProcess(const WorkerCall& call) {
    Process& current = current_[call.worker];
    if (call.kind == "register") {
      if (current.incarnation == call.incarnation) return;
      if (!current.incarnation.empty()) site_.world->Reached("worker: replaced by a new process");
      replaced_[call.worker + current.incarnation] = true;
      if (replaced_.count(call.worker + call.incarnation) != 0 && !current.incarnation.empty()) {
        Fail(absl::StrCat("a dead process of ", call.worker, " registered again"));
      }
      current = {call.incarnation, now()};
      return;
    }
    // Taken before the scheduler started anew.
    if (current.incarnation.empty()) return;
    if (call.incarnation != current.incarnation && call.arrived_at > current.since) {
      Fail(absl::StrCat(call.kind, " by a replaced process of ", call.worker, " was accepted"));
    }
  }

  std::map<std::string, int64_t> heard_;
  std::map<std::string, Process> current_;
  std::map<std::string, bool> replaced_;
};

}  // namespace

std::unique_ptr<Checker> MakeFencingChecker(Site* site) {
  return std::make_unique<FencingChecker>(site);
}

}  // namespace nibble::sim
