#include "tests/sim/world.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble::sim {

// splitmix64.
uint64_t World::Next() {
  random_ += 0x9e3779b97f4a7c15;
  uint64_t z = random_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

void World::At(int64_t delay_nanos, const std::weak_ptr<char>& life, std::function<void()> event) {
  events_.push_back(
      {now() + std::max<int64_t>(delay_nanos, 0), next_number_++, life, std::move(event)});
  std::push_heap(events_.begin(), events_.end(), Later);
}

bool World::RunOne() {
  if (events_.empty() || violation_ != Violation::kNone) return false;
  std::pop_heap(events_.begin(), events_.end(), Later);
  const Event event = std::move(events_.back());
  events_.pop_back();
  const Life life = event.life.lock();
  if (life == nullptr) return true;
  clock_.AdvanceNanos(std::max<int64_t>(event.at - now(), 0));
  event.run();
  return true;
}

void World::Fail(Violation kind, const std::string& what) {
  Trace(absl::StrCat("VIOLATION ", what));
  if (violation_ != Violation::kNone) return;
  violation_ = kind;
  what_ = absl::StrCat(what, " (after ", now() / kMillis, " ms)");
}

void World::Trace(const std::string& line) const {
  if (trace_) std::printf("%10.3f %s\n", static_cast<double>(now()) * 1e-9, line.c_str());
}

}  // namespace nibble::sim
