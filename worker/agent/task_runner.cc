#include "worker/agent/task_runner.h"

#include <utility>

namespace nibble::agent {

ThreadTaskRunner::ThreadTaskRunner() {
  thread_ = std::thread([this] { Work(); });
}

ThreadTaskRunner::~ThreadTaskRunner() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void ThreadTaskRunner::Run(std::function<void()> task) {
  MutexLock lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.SignalAll();
}

void ThreadTaskRunner::Work() {
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(mutex_);
      while (tasks_.empty() && !ending_) changed_.Wait(mutex_);
      if (ending_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace nibble::agent
