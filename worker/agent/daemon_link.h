// The worker's side of WorkerService, without saying how the calls travel: gRPC in the product, a
// fake in tests and in the simulator.
#ifndef WORKER_AGENT_DAEMON_LINK_H_
#define WORKER_AGENT_DAEMON_LINK_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nibble/v1/worker_service.pb.h"

namespace nibble::agent {

// Every call returns at once and answers through its callback, exactly once, from any thread and
// possibly before the call returned. UNAVAILABLE: the daemon cannot be reached. DEADLINE_EXCEEDED:
// it did not answer in time. The other codes are the daemon's (worker_service.proto).
class DaemonLink {
 public:
  template <typename Response>
  using Done = std::function<void(absl::StatusOr<Response>)>;

  virtual ~DaemonLink() = default;

  // Starts over with a new connection.
  virtual void Register(const v1::RegisterWorkerRequest& request,
                        Done<v1::RegisterWorkerResponse> done) = 0;
  virtual void RenewLeases(const v1::RenewLeasesRequest& request,
                           Done<v1::RenewLeasesResponse> done) = 0;
  virtual void ReportAttempt(const v1::ReportAttemptRequest& request,
                             Done<v1::ReportAttemptResponse> done) = 0;
  virtual void CommitCheckpoint(const v1::CommitCheckpointRequest& request,
                                Done<v1::CommitCheckpointResponse> done) = 0;
  virtual void AppendMetrics(const v1::AppendMetricsRequest& request,
                             Done<v1::AppendMetricsResponse> done) = 0;
  virtual void AppendLogs(const v1::AppendLogsRequest& request,
                          Done<v1::AppendLogsResponse> done) = 0;

  // `on_list` for every list, then `on_end` once. Ends the watch before, if there is one.
  virtual void WatchAssignments(const v1::WatchAssignmentsRequest& request,
                                std::function<void(v1::AssignmentList)> on_list,
                                std::function<void(absl::Status)> on_end) = 0;
  // Ends the watch, if there is one.
  virtual void StopWatching() = 0;
};

// Reasons of google.rpc.ErrorInfo that the agent acts on.
inline constexpr char kUnknownWorkerReason[] = "UNKNOWN_WORKER";
inline constexpr char kStaleAttemptReason[] = "STALE_ATTEMPT";

// A status with an ErrorInfo attached, as DaemonLink implementations return it.
absl::Status StatusWithReason(absl::Status status, const std::string& reason,
                              std::optional<int64_t> expected_sequence = std::nullopt);
// Attaches a serialised google.rpc.ErrorInfo to `status`.
void AttachErrorInfo(const std::string& serialized_error_info, absl::Status* status);

// ErrorInfo.reason, or empty.
std::string ReasonOf(const absl::Status& status);
// ErrorInfo.metadata["expected_sequence"]: an append left a gap, and the daemon wants the records
// from there.
std::optional<int64_t> ExpectedSequenceOf(const absl::Status& status);

}  // namespace nibble::agent

#endif  // WORKER_AGENT_DAEMON_LINK_H_
