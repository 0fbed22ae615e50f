#include "server/coordinator/work_pool.h"

#include <cstdint>
#include <utility>

namespace nibble::coordinator {

WorkPool::WorkPool(int threads, size_t max_waiting) : max_waiting_(max_waiting) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkPool::~WorkPool() { Stop(); }

bool WorkPool::Submit(std::function<void()> work) { return Enqueue(std::move(work), max_waiting_); }

bool WorkPool::SubmitUnbounded(std::function<void()> work) {
  return Enqueue(std::move(work), SIZE_MAX);
}

bool WorkPool::Enqueue(std::function<void()> work, size_t limit) {
  MutexLock lock(mutex_);
  if (stopped_ || waiting_.size() >= limit) return false;
  waiting_.push_back(std::move(work));
  wake_.Signal();
  return true;
}

void WorkPool::Stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    wake_.SignalAll();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void WorkPool::RunPending() {
  for (;;) {
    std::function<void()> work;
    {
      MutexLock lock(mutex_);
      if (waiting_.empty()) return;
      work = std::move(waiting_.front());
      waiting_.pop_front();
    }
    work();
  }
}

void WorkPool::Run() {
  for (;;) {
    std::function<void()> work;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !stopped_) wake_.Wait(mutex_);
      if (waiting_.empty()) return;
      work = std::move(waiting_.front());
      waiting_.pop_front();
    }
    work();
  }
}

}  // namespace nibble::coordinator
