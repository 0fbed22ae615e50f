#include "client/experiment/gap_table.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble::client {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// Runs of equal length end within a step of each other; a share of the whole absorbs that.
constexpr double kEndTolerance = 1e-9;

// Two-sided 95 % quantile of Student's t with `freedom` degrees of freedom: the exact values of the
// usual table, then the expansion about the normal distribution.
double StudentQuantile(int freedom) {
  constexpr double kTable[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646,
                               2.3060,  2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
                               2.1314,  2.1199, 2.1098, 2.1009, 2.0930, 2.0860};
  constexpr int kKnown = sizeof(kTable) / sizeof(kTable[0]);
  if (freedom <= kKnown) return kTable[freedom - 1];
  // Abramowitz and Stegun 26.7.5.
  constexpr double z = 1.959964;
  constexpr double z3 = z * z * z, z5 = z3 * z * z;
  return z + (z3 + z) / (4.0 * freedom) + (5 * z5 + 16 * z3 + 3 * z) / (96.0 * freedom * freedom);
}

std::vector<double> ValuesAt(const SeedCurves& curves, double tokens) {
  std::vector<double> values;
  for (const auto& [seed, curve] : curves) {
    const double value = ValueAt(curve, tokens);
    if (std::isfinite(value)) values.push_back(value);
  }
  return values;
}

}  // namespace

bool SeedStatistics::ExceedsNoise() const { return count >= 2 && std::abs(mean) > half_width; }

SeedStatistics StatisticsOf(const std::vector<double>& values) {
  SeedStatistics statistics{static_cast<int>(values.size()), kNone, kNone, kNone};
  if (values.empty()) return statistics;
  double sum = 0;
  for (const double value : values) sum += value;
  statistics.mean = sum / statistics.count;
  if (statistics.count < 2) return statistics;
  double squares = 0;
  for (const double value : values) {
    squares += (value - statistics.mean) * (value - statistics.mean);
  }
  statistics.deviation = std::sqrt(squares / (statistics.count - 1));
  statistics.half_width = StudentQuantile(statistics.count - 1) * statistics.deviation /
                          std::sqrt(static_cast<double>(statistics.count));
  return statistics;
}

std::vector<double> PairedGaps(const SeedCurves& a, const SeedCurves& b, double tokens) {
  std::vector<double> gaps;
  for (const auto& [seed, curve] : a) {
    const auto other = b.find(seed);
    if (other == b.end()) continue;
    const double base = ValueAt(other->second, tokens);
    const double gap = (ValueAt(curve, tokens) - base) / base;
    if (std::isfinite(gap)) gaps.push_back(gap);
  }
  return gaps;
}

GapTable MakeGapTable(const std::map<std::string, SeedCurves>& curves,
                      const std::vector<std::string>& order, const std::string& baseline,
                      const std::string& recipe, double end, int points) {
  GapTable table{.baseline = baseline};
  for (int i = 1; i <= points; ++i) table.tokens.push_back(end * i / points);
  // A hair before the last point, so that rounding does not lose it.
  table.tokens.back() = end * (1 - kEndTolerance);
  const SeedCurves none;
  const auto of = [&](const std::string& name) -> const SeedCurves& {
    const auto found = curves.find(name);
    return found != curves.end() ? found->second : none;
  };
  std::vector<std::string> names = {baseline};
  for (const std::string& name : order) {
    if (name != baseline) names.push_back(name);
  }
  for (const std::string& name : names) {
    const SeedCurves& own = of(name);
    if (own.empty()) continue;
    GapRow row{.variant = name, .loss = StatisticsOf(ValuesAt(own, table.tokens.back()))};
    row.complete = row.loss.count == static_cast<int>(of(baseline).size());
    if (name != baseline) {
      for (const double tokens : table.tokens) {
        row.points.push_back({tokens, StatisticsOf(PairedGaps(own, of(baseline), tokens))});
      }
      if (name != recipe) {
        row.against_recipe = StatisticsOf(PairedGaps(own, of(recipe), table.tokens.back()));
      }
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace nibble::client
