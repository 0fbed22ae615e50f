#include "tests/sim/daemon_link.h"

#include <type_traits>
#include <utility>
#include <vector>

namespace nibble::sim {
namespace {

// As grpc_daemon_link.cc.
constexpr int64_t kRenewalDeadline = 5 * kSeconds;
constexpr int64_t kCallDeadline = 10 * kSeconds;

}  // namespace

template <typename Request, typename Response>
void SimDaemonLink::Start(const Request& request, Done<Response> done, int64_t deadline_nanos) {
  const int64_t number = next_call_++;
  // The first of the answer, the deadline and the end of the connection counts.
  auto answer = [this, number, done](const absl::StatusOr<Response>& response) {
    if (pending_.erase(number) == 0) return;
    done(response);
    wake_();
  };
  pending_[number] = [done](absl::Status status) { done(std::move(status)); };
  SimDaemon* const daemon = daemon_();
  if (daemon == nullptr) {
    world_->At(world_->Between(1, 50) * kMillis, life_,
               [answer] { answer(absl::UnavailableError("connection refused")); });
    return;
  }
  world_->At(deadline_nanos, life_, [answer] { answer(absl::DeadlineExceededError("deadline")); });
  // What the message needs on its way: this process may be gone when it arrives.
  const std::weak_ptr<char> life = life_;
  network_->Send(
      machine_, daemon->life(),
      [request, answer, life, find = daemon_, network = network_, machine = machine_] {
        // A registration that its sender's death overtakes: docs/simulation.md.
        if (std::is_same_v<Request, v1::RegisterWorkerRequest> && life.expired()) return;
        // Found anew: this runs only while that daemon lives.
        find()->Call(request, [answer, life, network, machine](absl::StatusOr<Response> response) {
          network->Send(machine, life, [answer, response] { answer(response); });
        });
      });
}

void SimDaemonLink::Register(const v1::RegisterWorkerRequest& request,
                             Done<v1::RegisterWorkerResponse> done) {
  // A new connection: what was under way on the old one is cancelled.
  for (const auto& [number, end] : std::exchange(pending_, {})) end(absl::CancelledError("gone"));
  Start(request, std::move(done), kCallDeadline);
}

void SimDaemonLink::RenewLeases(const v1::RenewLeasesRequest& request,
                                Done<v1::RenewLeasesResponse> done) {
  Start(request, std::move(done), kRenewalDeadline);
}

void SimDaemonLink::ReportAttempt(const v1::ReportAttemptRequest& request,
                                  Done<v1::ReportAttemptResponse> done) {
  Start(request, std::move(done), kCallDeadline);
}

void SimDaemonLink::CommitCheckpoint(const v1::CommitCheckpointRequest& request,
                                     Done<v1::CommitCheckpointResponse> done) {
  Start(request, std::move(done), kCallDeadline);
}

void SimDaemonLink::AppendMetrics(const v1::AppendMetricsRequest& request,
                                  Done<v1::AppendMetricsResponse> done) {
  Start(request, std::move(done), kCallDeadline);
}

void SimDaemonLink::AppendLogs(const v1::AppendLogsRequest& request,
                               Done<v1::AppendLogsResponse> done) {
  Start(request, std::move(done), kCallDeadline);
}

void SimDaemonLink::WatchAssignments(const v1::WatchAssignmentsRequest& request,
                                     std::function<void(v1::AssignmentList)> on_list,
                                     std::function<void(absl::Status)> on_end) {
  stream_ = std::make_shared<Stream>();
  stream_->on_list = std::move(on_list);
  stream_->on_end = std::move(on_end);
  const std::weak_ptr<Stream> weak = stream_;
  SimDaemon* const daemon = daemon_();
  if (daemon == nullptr) return EndStream(weak, absl::UnavailableError("connection refused"));
  const bool sent = network_->SendInOrder(
      machine_, daemon->life(), &stream_->last_at, [this, weak, request, find = daemon_] {
        find()->Watch(
            request,
            [this, weak](const v1::AssignmentList& list) {
              // The stream lives no longer than this object.
              const std::shared_ptr<Stream> stream = weak.lock();
              return stream != nullptr &&
                     network_->SendInOrder(machine_, life_, &stream->last_at, [this, weak, list] {
                       const std::shared_ptr<Stream> self = weak.lock();
                       if (self == nullptr) return;
                       self->on_list(list);
                       wake_();
                     });
            },
            [this, weak](const absl::Status& status) {
              if (!weak.expired()) EndStream(weak, status);
            });
      });
  if (!sent) EndStream(weak, absl::UnavailableError("the connection broke"));
}

void SimDaemonLink::EndStream(const std::weak_ptr<Stream>& stream, const absl::Status& status) {
  // The worker's process may be gone, and this object with it.
  const std::shared_ptr<Stream> self = stream.lock();
  if (self == nullptr) return;
  const std::weak_ptr<Stream> weak = self;
  network_->SendSurely(machine_, life_, [this, weak, status] {
    const std::shared_ptr<Stream> ended = weak.lock();
    if (ended == nullptr) return;
    ended->on_end(status);
    wake_();
  });
}

void SimDaemonLink::DaemonDied() {
  if (stream_ != nullptr) EndStream(stream_, absl::UnavailableError("connection reset"));
  for (const auto& [number, end] : pending_) {
    world_->At(world_->Between(1, 20) * kMillis, life_, [this, number = number] {
      const auto found = pending_.find(number);
      if (found == pending_.end()) return;
      const auto ending = std::move(found->second);
      pending_.erase(found);
      ending(absl::UnavailableError("connection reset"));
      wake_();
    });
  }
}

}  // namespace nibble::sim
