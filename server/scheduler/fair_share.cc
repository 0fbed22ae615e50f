#include "server/scheduler/fair_share.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace nibble::scheduler {

FairShare::FairShare(const std::vector<ProjectOptions>& projects, int64_t half_life_nanos)
    : decay_per_second_(std::log(2.0) / (static_cast<double>(half_life_nanos) * 1e-9)) {
  NIBBLE_CHECK(half_life_nanos > 0);
  IndexOf(kDefaultProject);
  for (const ProjectOptions& options : projects) {
    NIBBLE_CHECK(options.weight > 0);
    projects_[IndexOf(options.name)].options = options;
  }
}

int FairShare::IndexOf(absl::string_view project) {
  const auto found = index_.find(project);
  if (found != index_.end()) return found->second;
  const int index = static_cast<int>(projects_.size());
  index_.emplace(std::string(project), index);
  projects_.emplace_back();
  projects_.back().options.name = std::string(project);
  return index;
}

void FairShare::Hold(int project, int32_t slots, int64_t now_nanos) {
  Project& p = projects_[project];
  p.usage = Usage(project, now_nanos);
  p.at_nanos = now_nanos;
  p.held += slots;
  NIBBLE_CHECK(p.held >= 0);
}

double FairShare::Usage(int project, int64_t now_nanos) const {
  const Project& p = projects_[project];
  // Of du/dt = held - decay * u.
  const double seconds = static_cast<double>(std::max<int64_t>(now_nanos - p.at_nanos, 0)) * 1e-9;
  const double fresh = -std::expm1(-decay_per_second_ * seconds);  // 1 - e^(-decay t)
  return p.usage * (1 - fresh) + p.held * fresh / decay_per_second_;
}

void FairShare::Restore(const ProjectUsage& usage, int64_t now_nanos) {
  Project& p = projects_[IndexOf(usage.project)];
  p.usage = usage.slot_seconds;
  p.at_nanos = usage.clock_nanos;
  p.usage = Usage(IndexOf(usage.project), now_nanos);
  p.at_nanos = now_nanos;
}

double FairShare::Rank(int project, int64_t now_nanos) const {
  const Project& p = projects_[project];
  return (Usage(project, now_nanos) + p.held) / p.options.weight;
}

bool FairShare::Borrows(int project, int32_t slots) const {
  return projects_[project].held + slots > projects_[project].options.quota_slots;
}

bool FairShare::ExceedsLimit(int project, int32_t slots) const {
  const Project& p = projects_[project];
  return p.options.limit_slots.has_value() && p.held + slots > *p.options.limit_slots;
}

}  // namespace nibble::scheduler
