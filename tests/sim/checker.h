// What every checker of invariants is told. A checker has its rule in a file of its own
// (tests/sim/checkers) and knows only what was seen from outside: committed rows, calls and their
// answers, what trainers do. None reads the scheduler's memory.
#ifndef TESTS_SIM_CHECKER_H_
#define TESTS_SIM_CHECKER_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nibble/v1/worker_service.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/telemetry/telemetry.h"
#include "tests/sim/client_call.h"
#include "tests/sim/disk.h"
#include "tests/sim/plan.h"
#include "tests/sim/rows.h"
#include "tests/sim/stores.h"
#include "tests/sim/world.h"

namespace nibble::sim {

// A trainer process that exists.
struct TrainerView {
  std::string worker;
  scheduler::AttemptId attempt;
  int32_t slots = 0;
  bool killed = false;  // SIGKILL is on its way
};

// What checkers look at.
struct Site {
  World* world = nullptr;
  const scheduler::SchedulerOptions* options = nullptr;
  const Plans* plans = nullptr;
  const Disk* disk = nullptr;
  store::Store* store = nullptr;
  SimMetricStore* metrics = nullptr;
  Rows rows;
  std::vector<const TrainerView*> trainers;
  int32_t slots_of_worker = 0;
  int64_t daemon_started_at = 0;
  // Nothing fails in this run: many narrow jobs come without end, and now and then a wide one.
  bool stream = false;
};

// What a worker's call concerns, and whether that was live in the rows when the call arrived.
struct WorkerCall {
  std::string kind;  // "register", "renew", "report", "commit", "metrics"
  std::string worker;
  std::string incarnation;
  int64_t arrived_at = 0;
  std::vector<scheduler::AttemptId> attempts;
  std::vector<bool> live;
  v1::ReportAttemptRequest::Status status = v1::ReportAttemptRequest::STATUS_UNSPECIFIED;
};

class Checker {
 public:
  explicit Checker(Site* site) : site_(*site) {}
  virtual ~Checker() = default;

  // A transaction is durable; site.rows have it.
  virtual void Committed(const scheduler::Transaction&) {}
  // A daemon starts on the store, before it serves.
  virtual void DaemonStarts() {}
  // The disk was full: the daemon forgets what it could not write, and starts its scheduler anew.
  virtual void SchedulerRestarts() {}
  // The daemon has done what it could for now; everything committed was carried out.
  virtual void DaemonRests(coordinator::Coordinator&) {}
  virtual void Counts(const telemetry::ControlPlaneCounts&) {}
  // A list goes to the worker.
  virtual void Listed(const std::string& /*worker*/, const v1::AssignmentList&) {}
  // A call was answered with OK; `granted`: what it names as adopted or renewed; `refused`: as
  // stale.
  virtual void Accepted(const WorkerCall&, const std::vector<scheduler::AttemptId>& /*granted*/,
                        const std::vector<scheduler::AttemptId>& /*refused*/) {}
  virtual void ClientSent(const ClientCall&) {}
  virtual void ClientAnswered(const ClientCall&, const coordinator::Outcome&) {}
  virtual void TrainerLaunched(const TrainerView&) {}
  virtual void TrainerLoaded(const TrainerView&, int64_t /*step*/, uint64_t /*weights*/) {}
  virtual void CheckpointRemoved(const std::string& /*path*/) {}
  // Twice a second, whether or not there is a daemon. `frozen`: workers that are stopped.
  virtual void TimePasses(const std::set<std::string>& /*frozen*/) {}
  // All faults are over and everything has come to rest.
  virtual void Finished() {}

 protected:
  void Fail(const std::string& what) { site_.world->Fail(Violation::kSafety, what); }
  int64_t now() const { return site_.world->now(); }
  static std::string Name(const scheduler::AttemptId& attempt) {
    return absl::StrCat("attempt ", attempt.attempt, " of ", attempt.job_id);
  }

  Site& site_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_CHECKER_H_
