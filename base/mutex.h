// std::mutex with clang's thread-safety annotations: which lock guards what is checked when clang
// compiles. std::mutex rather than absl::Mutex, because Debian's Abseil is not built for the thread
// sanitizer and gives false reports there.
#ifndef BASE_MUTEX_H_
#define BASE_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#if defined(__clang__)
#define NIBBLE_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define NIBBLE_THREAD_ANNOTATION(x)
#endif
#define CAPABILITY(x) NIBBLE_THREAD_ANNOTATION(capability(x))
#define SCOPED_CAPABILITY NIBBLE_THREAD_ANNOTATION(scoped_lockable)
#undef GUARDED_BY
#define GUARDED_BY(x) NIBBLE_THREAD_ANNOTATION(guarded_by(x))
#define REQUIRES(...) NIBBLE_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define ACQUIRE(...) NIBBLE_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define RELEASE(...) NIBBLE_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define EXCLUDES(...) NIBBLE_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#undef NO_THREAD_SAFETY_ANALYSIS
#define NO_THREAD_SAFETY_ANALYSIS NIBBLE_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace nibble {

class CAPABILITY("mutex") Mutex {
 public:
  void Lock() ACQUIRE() { mutex_.lock(); }
  void Unlock() RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class CondVar {
 public:
  // Releases `mutex` while waiting. May wake without a signal: wait in a loop over the condition.
  void Wait(Mutex& mutex) REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // False where the time ran out.
  bool WaitForNanos(Mutex& mutex, int64_t nanos) REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const bool signalled =
        condition_.wait_for(lock, std::chrono::nanoseconds(nanos)) == std::cv_status::no_timeout;
    lock.release();
    return signalled;
  }
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace nibble

#endif  // BASE_MUTEX_H_
