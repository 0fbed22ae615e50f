#include "worker/agent/event_loop.h"

#include <utility>

namespace nibble::agent {

void EventLoop::Post(std::function<void()> event) {
  MutexLock lock(mutex_);
  events_.push_back(std::move(event));
  posted_.Signal();
}

void EventLoop::RunPending() {
  while (true) {
    std::vector<std::function<void()>> events;
    {
      MutexLock lock(mutex_);
      events.swap(events_);
    }
    if (events.empty()) return;
    for (auto& event : events) event();
  }
}

void EventLoop::WaitUntil(int64_t deadline_nanos) {
  MutexLock lock(mutex_);
  while (events_.empty()) {
    const int64_t left = deadline_nanos - clock_.MonotonicNanos();
    if (left <= 0) return;
    posted_.WaitForNanos(mutex_, left);
  }
}

}  // namespace nibble::agent
