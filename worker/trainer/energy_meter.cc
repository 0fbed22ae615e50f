#include "worker/trainer/energy_meter.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "base/files.h"

namespace nibble::trainer {
namespace {

constexpr int64_t kMaxFileBytes = 64;

std::optional<int64_t> ReadCounter(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  int64_t value = 0;
  if (!text.ok() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &value) || value < 0) {
    return std::nullopt;
  }
  return value;
}

bool IsPackage(absl::string_view name) {
  return absl::ConsumePrefix(&name, "intel-rapl:") && !name.empty() &&
         std::all_of(name.begin(), name.end(), absl::ascii_isdigit);
}

}  // namespace

EnergyMeter::EnergyMeter(const std::string& root) {
  const absl::StatusOr<std::vector<std::string>> names = ListDirectory(root);
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    if (!IsPackage(name)) continue;
    const std::string directory = JoinPath(root, name);
    const std::optional<int64_t> range = ReadCounter(JoinPath(directory, "max_energy_range_uj"));
    const std::string path = JoinPath(directory, "energy_uj");
    const std::optional<int64_t> now = ReadCounter(path);
    if (range.has_value() && now.has_value()) domains_.push_back({path, *range, *now});
  }
}

std::optional<double> EnergyMeter::Joules() {
  if (domains_.empty()) return std::nullopt;
  for (Domain& domain : domains_) {
    const std::optional<int64_t> now = ReadCounter(domain.path);
    if (!now.has_value()) {
      // A sum without one of its parts would be wrong, not small.
      domains_.clear();
      return std::nullopt;
    }
    int64_t drawn = *now - domain.last_microjoules;
    if (drawn < 0) drawn += domain.range_microjoules;
    microjoules_ += static_cast<double>(std::max<int64_t>(drawn, 0));
    domain.last_microjoules = *now;
  }
  return microjoules_ * 1e-6;
}

}  // namespace nibble::trainer
