// Time, injected. Durations and deadlines are measured on the monotonic clock; wall time is only
// for showing to people.
#ifndef BASE_CLOCK_H_
#define BASE_CLOCK_H_

#include <cstdint>

#include "base/mutex.h"

namespace nibble {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds since an arbitrary start; never goes back.
  virtual int64_t MonotonicNanos() const = 0;
  // Microseconds since the Unix epoch; may jump.
  virtual int64_t WallMicros() const = 0;
};

// The system's clocks. Lives for ever.
const Clock& RealClock();

// A clock that tests move by hand.
class FakeClock : public Clock {
 public:
  int64_t MonotonicNanos() const override;
  int64_t WallMicros() const override;
  // Moves both clocks forward. REQUIRES: nanos >= 0.
  void AdvanceNanos(int64_t nanos);
  // Moves only the wall clock, either way.
  void JumpWallMicros(int64_t micros);

 private:
  mutable Mutex mutex_;
  int64_t monotonic_nanos_ GUARDED_BY(mutex_) = 1'000'000'000;
  int64_t wall_micros_ GUARDED_BY(mutex_) = 1'700'000'000'000'000;
};

}  // namespace nibble

#endif  // BASE_CLOCK_H_
