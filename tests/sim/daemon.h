// One life of the daemon: the real coordinator, scheduler and worker API over the simulated stores,
// without threads. Destroying it is kill -9.
#ifndef TESTS_SIM_DAEMON_H_
#define TESTS_SIM_DAEMON_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/coordinator/coordinator.h"
#include "server/coordinator/record_appender.h"
#include "server/coordinator/work_pool.h"
#include "server/rpc/worker_api.h"
#include "tests/sim/checker.h"
#include "tests/sim/world.h"

namespace nibble::sim {

// Checkers in the order of being told.
using Checkers = std::vector<std::unique_ptr<Checker>>;

class SimDaemon {
 public:
  // Recovers from the stores and serves.
  SimDaemon(Site* site, const Checkers* checkers);
  ~SimDaemon();

  // What calls to this process are bound to: they are lost with it.
  const Life& life() const { return life_; }
  // A store failed and the process has exited.
  bool dead() const { return dead_; }
  // Does nothing for so long, as behind a slow disk or a stopped process.
  void Stall(int64_t nanos) { stalled_until_ = site_->world->now() + nanos; }

  void Call(const v1::RegisterWorkerRequest&, rpc::Reply<v1::RegisterWorkerResponse>);
  void Call(const v1::RenewLeasesRequest&, rpc::Reply<v1::RenewLeasesResponse>);
  void Call(const v1::ReportAttemptRequest&, rpc::Reply<v1::ReportAttemptResponse>);
  void Call(const v1::CommitCheckpointRequest&, rpc::Reply<v1::CommitCheckpointResponse>);
  void Call(const v1::AppendMetricsRequest&, rpc::Reply<v1::AppendMetricsResponse>);
  void Call(const v1::AppendLogsRequest&, rpc::Reply<v1::AppendLogsResponse>);
  // Each list goes to `on_list`, which says whether the stream still stands.
  void Watch(const v1::WatchAssignmentsRequest& request,
             std::function<bool(const v1::AssignmentList&)> on_list,
             std::function<void(absl::Status)> on_end);
  void Post(const ClientCall& call, coordinator::OutcomeCallback callback);

 private:
  class SimTelemetry;
  struct Stream;

  void Wake(int64_t delay_nanos);
  void Run();
  void PullNext(const std::shared_ptr<Stream>& stream);
  template <typename Request>
  WorkerCall NoteCall(const char* kind, const Request& request,
                      const std::vector<v1::AttemptKey>& keys) const;
  void Accept(const WorkerCall& call, const std::vector<scheduler::AttemptId>& granted,
              const std::vector<scheduler::AttemptId>& refused);
  void NoteRefusal(const absl::Status& status);

  Site* const site_;
  const Checkers* const checkers_;
  Life life_ = NewLife();
  bool dead_ = false;
  int64_t stalled_until_ = 0;
  int64_t runs_at_ = INT64_MAX;
  std::unique_ptr<SimTelemetry> telemetry_;
  std::unique_ptr<coordinator::WorkPool> pool_;
  std::unique_ptr<coordinator::Coordinator> coordinator_;
  std::unique_ptr<coordinator::RecordAppender> appender_;
  std::unique_ptr<rpc::WorkerApi> api_;
  std::vector<std::shared_ptr<Stream>> streams_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_DAEMON_H_
