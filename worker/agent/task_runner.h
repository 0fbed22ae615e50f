// Where work that may block (removing checkpoints, say) goes, so that the agent's thread never
// does.
#ifndef WORKER_AGENT_TASK_RUNNER_H_
#define WORKER_AGENT_TASK_RUNNER_H_

#include <deque>
#include <functional>
#include <thread>

#include "base/mutex.h"

namespace nibble::agent {

class TaskRunner {
 public:
  virtual ~TaskRunner() = default;
  // Tasks run one after another, in order.
  virtual void Run(std::function<void()> task) = 0;
};

// One background thread. The destructor finishes the task that is running and drops the rest.
class ThreadTaskRunner : public TaskRunner {
 public:
  ThreadTaskRunner();
  ~ThreadTaskRunner() override;
  void Run(std::function<void()> task) override EXCLUDES(mutex_);

 private:
  void Work();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> tasks_ GUARDED_BY(mutex_);
  bool ending_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// Runs each task at once, in Run. For tests.
class InlineTaskRunner : public TaskRunner {
 public:
  void Run(std::function<void()> task) override { task(); }
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_TASK_RUNNER_H_
