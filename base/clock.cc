#include "base/clock.h"

#include <ctime>

#include "base/check.h"

namespace nibble {
namespace {

class SystemClock : public Clock {
 public:
  int64_t MonotonicNanos() const override { return Read(CLOCK_MONOTONIC); }
  int64_t WallMicros() const override { return Read(CLOCK_REALTIME) / 1000; }

 private:
  static int64_t Read(clockid_t id) {
    timespec t;
    clock_gettime(id, &t);
    return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
  }
};

}  // namespace

const Clock& RealClock() {
  static const SystemClock* const clock = new SystemClock;
  return *clock;
}

int64_t FakeClock::MonotonicNanos() const {
  MutexLock lock(mutex_);
  return monotonic_nanos_;
}

int64_t FakeClock::WallMicros() const {
  MutexLock lock(mutex_);
  return wall_micros_;
}

void FakeClock::AdvanceNanos(int64_t nanos) {
  NIBBLE_CHECK(nanos >= 0);
  MutexLock lock(mutex_);
  monotonic_nanos_ += nanos;
  wall_micros_ += nanos / 1000;
}

void FakeClock::JumpWallMicros(int64_t micros) {
  MutexLock lock(mutex_);
  wall_micros_ += micros;
}

}  // namespace nibble
