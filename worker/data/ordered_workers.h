// Threads that work on items side by side and give them back in the order in which they came.
// Internal to worker/data.
#ifndef WORKER_DATA_ORDERED_WORKERS_H_
#define WORKER_DATA_ORDERED_WORKERS_H_

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"

namespace nibble::data {

// Push and Pop from one thread. How much may wait is the caller's to bound.
template <typename Item>
class OrderedWorkers {
 public:
  // work(thread, item) is called in the threads 0 <= thread < threads. REQUIRES: threads > 0.
  OrderedWorkers(int threads, std::function<void(int, Item&)> work) : work_(std::move(work)) {
    NIBBLE_CHECK(threads > 0);
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { Run(i); });
  }
  // What was pushed and not popped may stay undone.
  ~OrderedWorkers() {
    {
      MutexLock lock(mutex_);
      ending_ = true;
      changed_.SignalAll();
    }
    for (std::thread& thread : threads_) thread.join();
  }
  OrderedWorkers(const OrderedWorkers&) = delete;
  OrderedWorkers& operator=(const OrderedWorkers&) = delete;

  size_t size() const { return order_.size(); }

  void Push(std::unique_ptr<Item> item) {
    auto entry = std::make_shared<Entry>();
    entry->item = std::move(item);
    order_.push_back(entry);
    MutexLock lock(mutex_);
    todo_.push_back(std::move(entry));
    changed_.SignalAll();
  }

  // The oldest item, once it is done. REQUIRES: size() > 0.
  std::unique_ptr<Item> Pop() {
    NIBBLE_CHECK(!order_.empty());
    const std::shared_ptr<Entry> entry = std::move(order_.front());
    order_.pop_front();
    MutexLock lock(mutex_);
    while (!entry->done) changed_.Wait(mutex_);
    return std::move(entry->item);
  }

 private:
  struct Entry {
    std::unique_ptr<Item> item;
    bool done = false;
  };

  void Run(int thread) {
    while (true) {
      std::shared_ptr<Entry> entry;
      {
        MutexLock lock(mutex_);
        while (todo_.empty() && !ending_) changed_.Wait(mutex_);
        if (ending_) return;
        entry = std::move(todo_.front());
        todo_.pop_front();
      }
      work_(thread, *entry->item);
      MutexLock lock(mutex_);
      entry->done = true;
      changed_.SignalAll();
    }
  }

  const std::function<void(int, Item&)> work_;
  std::deque<std::shared_ptr<Entry>> order_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::shared_ptr<Entry>> todo_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_ORDERED_WORKERS_H_
