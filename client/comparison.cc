#include "client/comparison.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/status_macros.h"
#include "client/job_reference.h"

namespace nibble::client {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// As TrainingResult.train_loss is defined: over the last 5 % of the steps, at least one.
double TailMean(const std::vector<double>& values) {
  if (values.empty()) return kNone;
  const size_t count = std::max<size_t>(1, (values.size() + 19) / 20);
  double sum = 0;
  for (size_t i = values.size() - count; i < values.size(); ++i) sum += values[i];
  return sum / static_cast<double>(count);
}

absl::Status ReadRows(Connection& connection, Reached* reached) {
  v1::GetMetricsRequest request;
  request.set_job_id(reached->job.job_id());
  std::vector<double> losses, speeds;
  reached->validation_loss = reached->validation_bits_per_byte = kNone;
  NIBBLE_RETURN_IF_ERROR(ForEachMetricRow(connection, request, [&](const v1::MetricRow& row) {
    reached->steps = row.step();
    if (row.values().contains("loss")) losses.push_back(ValueOf(row, "loss"));
    if (row.values().contains("tokens_per_second")) {
      speeds.push_back(ValueOf(row, "tokens_per_second"));
    }
    if (row.values().contains("tokens")) reached->tokens = ValueOf(row, "tokens");
    if (row.values().contains("validation_loss")) {
      reached->validation_loss = ValueOf(row, "validation_loss");
      reached->validation_bits_per_byte = ValueOf(row, "validation_bits_per_byte");
    }
  }));
  reached->train_loss = TailMean(losses);
  reached->tokens_per_second = TailMean(speeds);
  return absl::OkStatus();
}

// Mean of `most` windows, each at the mean of its tokens.
Curve Averaged(const Curve& curve, int most) {
  const size_t points = curve.tokens.size();
  if (points <= static_cast<size_t>(most)) return curve;
  Curve out;
  for (int i = 0; i < most; ++i) {
    const size_t begin = points * i / most;
    const size_t end = points * (i + 1) / most;
    double tokens = 0, value = 0;
    for (size_t k = begin; k < end; ++k) {
      tokens += curve.tokens[k];
      value += curve.values[k];
    }
    out.tokens.push_back(tokens / static_cast<double>(end - begin));
    out.values.push_back(value / static_cast<double>(end - begin));
  }
  return out;
}

}  // namespace

absl::StatusOr<Reached> ReadReached(Connection& connection, const std::string& reference,
                                    const std::string& metric) {
  Reached reached;
  NIBBLE_ASSIGN_OR_RETURN(reached.job, FindJob(connection, reference));
  NIBBLE_ASSIGN_OR_RETURN(reached.curve, ReadCurve(connection, reached.job.job_id(), metric));
  if (!reached.job.has_result()) {
    NIBBLE_RETURN_IF_ERROR(ReadRows(connection, &reached));
    return reached;
  }
  const v1::TrainingResult& result = reached.job.result();
  reached.steps = result.steps();
  reached.tokens = static_cast<double>(result.tokens());
  reached.train_loss = result.train_loss();
  const bool validated = result.validation_loss() != 0;
  reached.validation_loss = validated ? result.validation_loss() : kNone;
  reached.validation_bits_per_byte = validated ? result.validation_bits_per_byte() : kNone;
  reached.tokens_per_second = result.tokens_per_second();
  return reached;
}

std::vector<Gap> Gaps(const Curve& a, const Curve& b, int most) {
  const Curve averaged_a = Averaged(a, most);
  const Curve averaged_b = Averaged(b, most);
  std::vector<Gap> gaps;
  for (size_t i = 0; i < averaged_a.tokens.size(); ++i) {
    Gap gap{.tokens = averaged_a.tokens[i],
            .a = averaged_a.values[i],
            .b = ValueAt(averaged_b, averaged_a.tokens[i])};
    gap.relative = (gap.a - gap.b) / gap.b;
    if (std::isfinite(gap.relative)) gaps.push_back(gap);
  }
  return gaps;
}

}  // namespace nibble::client
