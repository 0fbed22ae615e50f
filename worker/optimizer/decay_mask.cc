#include "worker/optimizer/decay_mask.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/glob.h"
#include "base/status_macros.h"

namespace nibble::optimizer {
namespace {

using model::Parameter;
using model::ParameterTable;

bool MatchesAny(const std::vector<std::string>& patterns, const Parameter& parameter) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return GlobMatches(pattern, parameter.name);
  });
}

absl::Status CheckAllMatch(const char* field, const std::vector<std::string>& patterns,
                           const ParameterTable& table) {
  for (const std::string& pattern : patterns) {
    const auto& parameters = table.parameters();
    if (std::none_of(parameters.begin(), parameters.end(), [&](const Parameter& parameter) {
          return GlobMatches(pattern, parameter.name);
        })) {
      return absl::InvalidArgumentError(absl::StrCat(field, ": no parameter's name matches '",
                                                     pattern, "'; the model has, among others, ",
                                                     parameters.front().name));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<DecayRange>> DecayRanges(const AdamWConfig& config,
                                                    const ParameterTable& table) {
  NIBBLE_RETURN_IF_ERROR(CheckAllMatch("optimizer.decay_include", config.decay_include, table));
  NIBBLE_RETURN_IF_ERROR(CheckAllMatch("optimizer.decay_exclude", config.decay_exclude, table));
  std::vector<DecayRange> ranges;
  for (const Parameter& parameter : table.parameters()) {
    const bool decay = (parameter.decay() || MatchesAny(config.decay_include, parameter)) &&
                       !MatchesAny(config.decay_exclude, parameter);
    if (ranges.empty() || ranges.back().decay != decay) {
      ranges.push_back({parameter.offset, 0, decay});
    }
    ranges.back().size = parameter.offset + parameter.size - ranges.back().first;
  }
  for (size_t i = 0; i < ranges.size(); ++i) {
    const int64_t end = i + 1 < ranges.size() ? ranges[i + 1].first : table.flat_size();
    ranges[i].size = end - ranges[i].first;
  }
  return ranges;
}

}  // namespace nibble::optimizer
