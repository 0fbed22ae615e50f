// The daemon as a simulated worker sees it: calls travel over the simulated network to whichever
// life of the daemon they were sent to, and are lost with it.
#ifndef TESTS_SIM_DAEMON_LINK_H_
#define TESTS_SIM_DAEMON_LINK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "tests/sim/daemon.h"
#include "tests/sim/network.h"
#include "worker/agent/daemon_link.h"

namespace nibble::sim {

// Null while the daemon is down.
using FindDaemon = std::function<SimDaemon*()>;

class SimDaemonLink : public agent::DaemonLink {
 public:
  // `life`: of the worker process. `wake`: something was answered.
  SimDaemonLink(World* world, Network* network, std::string machine, Life life, FindDaemon daemon,
                std::function<void()> wake)
      : world_(world),
        network_(network),
        machine_(std::move(machine)),
        life_(std::move(life)),
        daemon_(std::move(daemon)),
        wake_(std::move(wake)) {}

  void Register(const v1::RegisterWorkerRequest& request,
                Done<v1::RegisterWorkerResponse> done) override;
  void RenewLeases(const v1::RenewLeasesRequest& request,
                   Done<v1::RenewLeasesResponse> done) override;
  void ReportAttempt(const v1::ReportAttemptRequest& request,
                     Done<v1::ReportAttemptResponse> done) override;
  void CommitCheckpoint(const v1::CommitCheckpointRequest& request,
                        Done<v1::CommitCheckpointResponse> done) override;
  void AppendMetrics(const v1::AppendMetricsRequest& request,
                     Done<v1::AppendMetricsResponse> done) override;
  void AppendLogs(const v1::AppendLogsRequest& request, Done<v1::AppendLogsResponse> done) override;
  void WatchAssignments(const v1::WatchAssignmentsRequest& request,
                        std::function<void(v1::AssignmentList)> on_list,
                        std::function<void(absl::Status)> on_end) override;
  void StopWatching() override { stream_.reset(); }

  // The daemon's process is gone: connections to it break.
  void DaemonDied();

 private:
  struct Stream {
    std::function<void(v1::AssignmentList)> on_list;
    std::function<void(absl::Status)> on_end;
    int64_t last_at = 0;
  };
  template <typename Request, typename Response>
  void Start(const Request& request, Done<Response> done, int64_t deadline_nanos);
  void EndStream(const std::weak_ptr<Stream>& stream, const absl::Status& status);

  World* const world_;
  Network* const network_;
  const std::string machine_;
  const Life life_;
  const FindDaemon daemon_;
  const std::function<void()> wake_;
  int64_t next_call_ = 0;
  // Ends a call that is not answered yet.
  std::map<int64_t, std::function<void(absl::Status)>> pending_;
  std::shared_ptr<Stream> stream_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_DAEMON_LINK_H_
