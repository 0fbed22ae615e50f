// The arithmetic of a comparison: relative loss gaps of variants to a baseline, paired by seed.
#ifndef CLIENT_EXPERIMENT_GAP_TABLE_H_
#define CLIENT_EXPERIMENT_GAP_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "client/metric_rows.h"

namespace nibble::client {

// A sample of seeds. `half_width` is that of the 95 % confidence interval of the mean (Student's
// t); it and the deviation are NaN below two values, the mean below one.
struct SeedStatistics {
  int count = 0;
  double mean = 0;
  double deviation = 0;  // of the sample
  double half_width = 0;

  // Zero lies outside of the interval: what was seen is more than the spread of the seeds explains.
  bool ExceedsNoise() const;
};

SeedStatistics StatisticsOf(const std::vector<double>& values);

// Loss curves of one variant by seed.
using SeedCurves = std::map<uint64_t, Curve>;

// (a - b) / b of every seed that both have, at `tokens`; each curve interpolated linearly. Seeds
// whose curves do not reach `tokens` are left out.
std::vector<double> PairedGaps(const SeedCurves& a, const SeedCurves& b, double tokens);

struct GapPoint {
  double tokens = 0;
  SeedStatistics gap;
};

struct GapRow {
  std::string variant;
  SeedStatistics loss;            // at the end
  std::vector<GapPoint> points;   // against the baseline, at the table's token counts
  SeedStatistics against_recipe;  // at the end; count 0 for the recipe and the baseline
  bool complete = false;          // every seed that the baseline has reached the end
};

struct GapTable {
  std::string baseline;
  std::vector<double> tokens;  // of the points, ascending; the last is the end
  std::vector<GapRow> rows;    // the baseline first, then in the order given
};

// `order`: variants as rows should be shown; those without curves are left out. `end`: tokens of a
// whole run. `points` token counts: end / points, 2 end / points, ... end.
GapTable MakeGapTable(const std::map<std::string, SeedCurves>& curves,
                      const std::vector<std::string>& order, const std::string& baseline,
                      const std::string& recipe, double end, int points);

}  // namespace nibble::client

#endif  // CLIENT_EXPERIMENT_GAP_TABLE_H_
