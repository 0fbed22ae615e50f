// A few threads that may block, for reads and appends of the stores, so that neither the
// coordinator's thread nor a gRPC thread ever waits for a database.
#ifndef SERVER_COORDINATOR_WORK_POOL_H_
#define SERVER_COORDINATOR_WORK_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace nibble::coordinator {

// Thread-safe.
class WorkPool {
 public:
  // Without threads, nothing runs but in RunPending.
  WorkPool(int threads, size_t max_waiting);
  // Runs what waits, then joins; without threads, drops what waits.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // False, and `work` is not run, where max_waiting tasks wait already or Stop was called.
  [[nodiscard]] bool Submit(std::function<void()> work);
  // As Submit without the limit: for work whose number is bounded by other means (the one next
  // message of each stream, answers to events). False only after Stop.
  [[nodiscard]] bool SubmitUnbounded(std::function<void()> work);
  // Runs what waits, on the caller's thread. For the simulator, whose pool has no threads.
  void RunPending();
  // Refuses further work, runs what waits, joins. Idempotent.
  void Stop();

 private:
  bool Enqueue(std::function<void()> work, size_t limit);
  void Run();

  const size_t max_waiting_;
  Mutex mutex_;
  CondVar wake_;
  std::deque<std::function<void()>> waiting_ GUARDED_BY(mutex_);
  bool stopped_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace nibble::coordinator

#endif  // SERVER_COORDINATOR_WORK_POOL_H_
