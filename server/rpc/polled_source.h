// A MessageSource that asks itself, on a pool thread, whether there is something to say, and sleeps
// until a topic of the change feed wakes it.
#ifndef SERVER_RPC_POLLED_SOURCE_H_
#define SERVER_RPC_POLLED_SOURCE_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/coordinator/change_feed.h"
#include "server/coordinator/work_pool.h"
#include "server/rpc/call.h"
#include "server/rpc/grpc_status.h"

namespace nibble::rpc {

template <typename Response>
class PolledSource : public MessageSource<Response>,
                     public std::enable_shared_from_this<PolledSource<Response>> {
 public:
  using typename MessageSource<Response>::Deliver;

  explicit PolledSource(coordinator::WorkPool* pool) : pool_(pool) {}

  // Call once, before the first Next, with the object held by a shared_ptr.
  void WakeOn(coordinator::ChangeFeed* feed, const std::vector<std::string>& topics) {
    subscription_ = feed->Subscribe(topics, [weak = this->weak_from_this()] {
      if (auto self = weak.lock()) self->Wake();
    });
  }

  void Next(Deliver deliver) override {
    bool cancelled = false;
    {
      MutexLock lock(mutex_);
      cancelled = cancelled_;
      if (!cancelled) {
        waiting_ = std::move(deliver);
        running_ = true;
      }
    }
    if (cancelled) return deliver(Cancelled());
    SubmitRun();
  }

  void Cancel() override {
    Deliver deliver;
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
      if (!running_) deliver = std::exchange(waiting_, nullptr);
    }
    if (deliver != nullptr) deliver(Cancelled());
  }

 protected:
  struct Polled {
    enum class Kind { kMessage, kWait, kEnd };
    Kind kind = Kind::kWait;
    Response message;
  };
  static Polled Message(Response message) {
    return Polled{Polled::Kind::kMessage, std::move(message)};
  }
  static Polled Wait() { return Polled{Polled::Kind::kWait, {}}; }
  static Polled End() { return Polled{Polled::Kind::kEnd, {}}; }

  // The next message, or that there is none yet, or none any more. May read the stores. Never
  // called by two threads at once.
  virtual absl::StatusOr<Polled> Poll() = 0;

 private:
  static absl::Status Cancelled() {
    return WithReason(absl::CancelledError("the call was cancelled"), kCancelled);
  }

  void Wake() {
    {
      MutexLock lock(mutex_);
      woken_ = true;
      if (running_ || waiting_ == nullptr) return;
      running_ = true;
    }
    SubmitRun();
  }

  // REQUIRES: running_ was set by the caller.
  void SubmitRun() {
    if (pool_->SubmitUnbounded([self = this->shared_from_this()] { self->Run(); })) return;
    Answer(WithReason(absl::UnavailableError("the daemon is shutting down"), kShuttingDown));
  }

  void Run() {
    for (;;) {
      {
        MutexLock lock(mutex_);
        woken_ = false;
      }
      absl::StatusOr<Polled> polled = Poll();
      if (!polled.ok()) return Answer(polled.status());
      if (polled->kind == Polled::Kind::kEnd) return Answer(std::optional<Response>());
      if (polled->kind == Polled::Kind::kMessage) {
        return Answer(std::optional<Response>(std::move(polled->message)));
      }
      MutexLock lock(mutex_);
      if (woken_) continue;  // what Poll missed
      if (cancelled_) break;
      running_ = false;
      return;
    }
    Answer(Cancelled());
  }

  void Answer(absl::StatusOr<std::optional<Response>> answer) {
    Deliver deliver;
    {
      MutexLock lock(mutex_);
      running_ = false;
      if (cancelled_) answer = Cancelled();
      deliver = std::exchange(waiting_, nullptr);
    }
    deliver(std::move(answer));
  }

  coordinator::WorkPool* const pool_;
  std::unique_ptr<coordinator::ChangeFeed::Subscription> subscription_;
  Mutex mutex_;
  Deliver waiting_ GUARDED_BY(mutex_);
  bool running_ GUARDED_BY(mutex_) = false;  // a Run is submitted or under way
  bool woken_ GUARDED_BY(mutex_) = false;
  bool cancelled_ GUARDED_BY(mutex_) = false;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_POLLED_SOURCE_H_
