// A daemon in memory, for tests of the agent: keeps what a daemon keeps, refuses what it refuses,
// and writes down in which order things came.
#ifndef WORKER_AGENT_TESTING_FAKE_DAEMON_H_
#define WORKER_AGENT_TESTING_FAKE_DAEMON_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "worker/agent/daemon_link.h"

namespace nibble::agent {

// Answers every call at once, on the caller's thread.
class FakeDaemon : public DaemonLink {
 public:
  using Key = std::pair<std::string, int64_t>;

  // --- What the test sets.
  bool down = false;            // every call: UNAVAILABLE
  bool knows_worker = true;     // else every call but Register: NOT_FOUND, UNKNOWN_WORKER
  bool silent_metrics = false;  // AppendMetrics is stored, but its answer is lost
  int64_t lease_term_ms = 15'000;
  int keep = 1;
  std::vector<Key> live;  // attempts that are live; the others are stale
  absl::Status commit_refusal;
  absl::Status renewal_error;
  bool hold_renewals = false;  // RenewLeases is answered only by AnswerRenewals

  // --- What it wrote down.
  std::vector<std::string> log;  // "register 1", "TRAINING", "metrics 1-3", "commit 3", "FAILED"
  std::map<Key, std::vector<v1::MetricRecord>> metrics;  // durable, in order
  std::map<Key, std::vector<std::string>> lines;
  std::vector<v1::Checkpoint> checkpoints;  // newest first
  std::vector<v1::ReportAttemptRequest> reports;
  std::vector<std::string> purged;
  v1::RegisterWorkerRequest registration;
  int renewals = 0;

  // Sends a list to the watch.
  void Send(const v1::AssignmentList& list) {
    if (on_list_) on_list_(list);
  }
  bool watched() const { return static_cast<bool>(on_list_); }
  void AnswerRenewals() {
    hold_renewals = false;
    for (const auto& answer : std::exchange(held_renewals_, {})) answer();
  }
  // Ends the watch, as a daemon that goes away does.
  void Drop() {
    on_list_ = nullptr;
    if (auto on_end = std::exchange(on_end_, nullptr)) on_end(absl::UnavailableError("dropped"));
  }

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
  void StopWatching() override {
    on_list_ = nullptr;
    on_end_ = nullptr;
  }

 private:
  // OK where the daemon is up, knows the worker and the attempt is live.
  absl::Status Check(const v1::AttemptKey* key) const;
  bool IsLive(const v1::AttemptKey& key) const;

  std::function<void(v1::AssignmentList)> on_list_;
  std::function<void(absl::Status)> on_end_;
  std::vector<std::function<void()>> held_renewals_;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_TESTING_FAKE_DAEMON_H_
