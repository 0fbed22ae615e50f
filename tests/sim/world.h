// The simulated world: one clock, one source of chance and one queue of events. The same seed gives
// the same run, to the last message.
#ifndef TESTS_SIM_WORLD_H_
#define TESTS_SIM_WORLD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/random.h"

namespace nibble::sim {

inline constexpr int64_t kMillis = 1'000'000;
inline constexpr int64_t kSeconds = 1'000'000'000;

// What a process (or any other owner of events) holds while it lives: events of a dead owner never
// happen.
using Life = std::shared_ptr<char>;
inline Life NewLife() { return std::make_shared<char>(); }

enum class Violation { kNone, kLiveness, kSafety };

class World : public RandomSource {
 public:
  World(uint64_t seed, bool trace) : random_(seed ^ 0x6e6962626c65), trace_(trace) {}

  const Clock& clock() const { return clock_; }
  int64_t now() const { return clock_.MonotonicNanos(); }
  void JumpWall(int64_t micros) { clock_.JumpWallMicros(micros); }

  uint64_t Next() override;
  int64_t Below(int64_t bound) { return static_cast<int64_t>(Next() % bound); }
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }
  bool Chance(int per_mille) { return Below(1000) < per_mille; }

  // Runs `event` after `delay_nanos`, if `life` still lives.
  void At(int64_t delay_nanos, const std::weak_ptr<char>& life, std::function<void()> event);
  // The next event. False where there is none, or an invariant was violated.
  bool RunOne();

  // A rare branch was reached: for the table of how often each was.
  void Reached(const std::string& branch) { ++reached_[branch]; }
  const std::map<std::string, int64_t>& reached() const { return reached_; }

  // The first violation is the one that counts.
  void Fail(Violation kind, const std::string& what);
  Violation violation() const { return violation_; }
  const std::string& what() const { return what_; }

  bool tracing() const { return trace_; }
  // One line, with the time, where tracing is on.
  void Trace(const std::string& line) const;

 private:
  struct Event {
    int64_t at = 0;
    int64_t number = 0;
    std::weak_ptr<char> life;
    std::function<void()> run;
  };
  static bool Later(const Event& a, const Event& b) {
    return a.at != b.at ? a.at > b.at : a.number > b.number;
  }

  FakeClock clock_;
  uint64_t random_;
  const bool trace_;
  std::vector<Event> events_;  // a heap
  int64_t next_number_ = 0;
  std::map<std::string, int64_t> reached_;
  Violation violation_ = Violation::kNone;
  std::string what_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_WORLD_H_
