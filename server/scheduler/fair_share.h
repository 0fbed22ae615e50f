// What projects have used, and which of them is furthest behind its share.
//
// A project's usage is the slot-seconds it held, each of them halved with every half-life that has
// passed since: u(t) = integral of slots(s) * 2^(-(t-s)/half_life) ds. The project with the lowest
// u / weight goes first, so under endless demand the slots held are divided like the weights.
#ifndef SERVER_SCHEDULER_FAIR_SHARE_H_
#define SERVER_SCHEDULER_FAIR_SHARE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/scheduler/types.h"

namespace nibble::scheduler {

struct ProjectOptions {
  std::string name;
  double weight = 1;  // above 0
  // Slots that it gets before anyone borrows them, and takes back from borrowers.
  int32_t quota_slots = 0;
  // Slots that it may hold, borrowed ones included; absent for no limit.
  std::optional<int32_t> limit_slots = {};
  // Unfinished jobs that it may have; 0 for no limit.
  int64_t max_jobs = 0;

  friend bool operator==(const ProjectOptions&, const ProjectOptions&) = default;
};

// Times in nanoseconds of one clock that does not go back.
class FairShare {
 public:
  FairShare(const std::vector<ProjectOptions>& projects, int64_t half_life_nanos);

  // Number of the project; one that was not configured has weight 1, no quota and no limit.
  int IndexOf(absl::string_view project);
  int size() const { return static_cast<int>(projects_.size()); }
  const ProjectOptions& options(int project) const { return projects_[project].options; }
  int32_t held(int project) const { return projects_[project].held; }

  // The project holds `slots` more, or fewer where negative.
  void Hold(int project, int32_t slots, int64_t now_nanos);
  // u(now), in slot-seconds.
  double Usage(int project, int64_t now_nanos) const;
  void Restore(const ProjectUsage& usage, int64_t now_nanos);
  // (u(now) + one second of what it holds) / weight: lowest first. The second orders starts of one
  // instant, before any usage has come of them.
  double Rank(int project, int64_t now_nanos) const;
  // Whether holding `slots` more takes more than its quota; more than its limit.
  bool Borrows(int project, int32_t slots) const;
  bool ExceedsLimit(int project, int32_t slots) const;

 private:
  struct Project {
    ProjectOptions options;
    int32_t held = 0;
    double usage = 0;  // at `at_nanos`
    int64_t at_nanos = 0;
  };
  const double decay_per_second_;
  std::vector<Project> projects_;
  std::map<std::string, int, std::less<>> index_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_FAIR_SHARE_H_
