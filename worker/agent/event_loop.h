// The agent's one thread: runs what other threads post to it, in order.
#ifndef WORKER_AGENT_EVENT_LOOP_H_
#define WORKER_AGENT_EVENT_LOOP_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"

namespace nibble::agent {

class EventLoop {
 public:
  // `clock` outlives the loop.
  explicit EventLoop(const Clock& clock) : clock_(clock) {}

  // Thread-safe. Runs `event` on the loop's thread, soon.
  void Post(std::function<void()> event) EXCLUDES(mutex_);

  // Runs everything posted, also what that posts itself. Loop thread only.
  void RunPending() EXCLUDES(mutex_);

  // Sleeps until something is posted or the monotonic clock reaches `deadline_nanos`.
  void WaitUntil(int64_t deadline_nanos) EXCLUDES(mutex_);

 private:
  const Clock& clock_;
  Mutex mutex_;
  CondVar posted_;
  std::vector<std::function<void()>> events_ GUARDED_BY(mutex_);
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_EVENT_LOOP_H_
