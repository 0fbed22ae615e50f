// The worker: registers at the daemon, keeps leases, holds exactly the attempts that the daemon's
// list names, and ends in order. Starts no threads and reads no clock but the injected one; all
// methods run on the event loop's thread. See docs/job_lifecycle.md.
//
//   while (!agent.done()) {
//     agent.Tick();
//     loop.WaitUntil(agent.NextTick());
//     loop.RunPending();
//   }
//
// Losing the daemon stops nothing: trainers go on, what they report waits, and the agent registers
// again until orphan_limit is over.
#ifndef WORKER_AGENT_AGENT_H_
#define WORKER_AGENT_AGENT_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "nibble/v1/worker_service.pb.h"
#include "worker/agent/attempt.h"
#include "worker/agent/backoff.h"

namespace nibble::agent {

struct AgentOptions {
  std::string host;
  std::string device_kind;
  std::string device_name;
  std::string version;
  int32_t slots = 1;
  // What scheduling.constraints of jobs may ask for; memory 0 for unknown.
  int64_t slot_memory_bytes = 0;
  std::map<std::string, std::string> labels = {};
  // Without contact to the daemon for so long, trainers are killed.
  int64_t orphan_limit_nanos = 30LL * 60 * 1'000'000'000;
  // A shutdown kills trainers that have not checkpointed and ended by then, and ends a little later
  // whatever the daemon says.
  int64_t shutdown_nanos = 25'000'000'000;
};

class Agent {
 public:
  // From the kill of the last trainers in a shutdown to its end.
  static constexpr int64_t kShutdownGraceNanos = 5'000'000'000;
  // Leases that the daemon names are held to this range.
  static constexpr int64_t kMinLeaseMs = 200;
  static constexpr int64_t kMaxLeaseMs = 3'600'000;
  // Ended attempts that are remembered, so that none is ever started twice.
  static constexpr size_t kMaxFinished = 4096;

  // `context.on_daemon_lost` is set here.
  Agent(AgentOptions options, AttemptContext context);
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // Does everything that is due.
  void Tick();
  // When Tick is due next without an event.
  int64_t NextTick() const;

  // First call: pause all trainers, give their attempts back, then be done. Second call: kill them.
  void ShutDown();

  bool done() const { return done_; }
  // Why the agent ended, where that was not by ShutDown. ABORTED: another process has registered
  // with this worker id.
  const absl::Status& result() const { return result_; }

 private:
  using Key = std::pair<std::string, int64_t>;  // job_id, attempt
  static Key KeyOf(const v1::AttemptKey& key) { return {key.job_id(), key.attempt()}; }
  enum class Session { kNone, kRegistering, kRegistered };

  // Registration and the watch.
  void ConnectIfDue();
  void Registered(int64_t sent_at, const std::vector<Key>& running,
                  const v1::RegisterWorkerResponse& response);
  void ListReceived(v1::AssignmentList list);
  void DaemonLost(const absl::Status& status);
  void EndBecauseReplaced(const absl::Status& status);
  int64_t LeaseNanos(int64_t lease_term_ms) const;

  // Leases.
  void RenewIfDue();
  void Renewed(int64_t sent_at, const v1::RenewLeasesRequest& request,
               const absl::StatusOr<v1::RenewLeasesResponse>& response);

  // Assignments.
  void Reconcile();
  void Begin(const v1::Assignment& assignment);
  bool HasRoom(const v1::Assignment& assignment) const;
  static bool IsValid(const v1::Assignment& assignment);
  void CollectEnded();
  void ReportAgain(const Key& key);
  void Purge();

  void EnforceLimits();
  bool AnyAlive() const;
  int64_t Now() const { return context_.clock->MonotonicNanos(); }

  const AgentOptions options_;
  AttemptContext context_;

  Session session_ = Session::kNone;
  // Rises with every registration: answers to what an earlier session asked are told apart.
  int64_t session_number_ = 0;
  Backoff connect_backoff_;
  int64_t last_contact_ = 0;
  std::string last_loss_;
  bool renewing_ = false;
  int64_t next_renewal_ = 0;
  int64_t lease_nanos_ = 0;

  std::optional<v1::AssignmentList> desired_;  // of this session
  std::map<Key, std::shared_ptr<Attempt>> attempts_;
  struct Finished {
    std::optional<v1::ReportAttemptRequest> report;  // absent: abandoned
    int64_t session_number = 0;                      // in which the report was acknowledged
  };
  std::map<Key, Finished> finished_;
  std::deque<Key> finished_order_;
  std::set<std::string> purge_tried_;  // for this list
  std::set<std::string> purged_;       // the daemon does not know yet

  bool shutting_down_ = false;
  int64_t shutdown_at_ = 0;  // when it began
  bool shutdown_killed_ = false;
  bool done_ = false;
  absl::Status result_;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_AGENT_H_
