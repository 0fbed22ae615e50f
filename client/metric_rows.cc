#include "client/metric_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/status_macros.h"

namespace nibble::client {
namespace {

// A row with every value is about 300 bytes: pages of 2 MiB.
constexpr int kPageSize = 5000;

}  // namespace

absl::Status ForEachMetricRow(Connection& connection, v1::GetMetricsRequest request,
                              const std::function<void(const v1::MetricRow&)>& each) {
  if (request.max_points() == 0) request.set_page_size(kPageSize);
  do {
    NIBBLE_ASSIGN_OR_RETURN(const v1::GetMetricsResponse page, connection.GetMetrics(request));
    for (const v1::MetricRow& row : page.rows()) each(row);
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return absl::OkStatus();
}

double ValueOf(const v1::MetricRow& row, const std::string& name) {
  const auto found = row.values().find(name);
  return found != row.values().end() ? found->second : std::numeric_limits<double>::quiet_NaN();
}

double ValueAt(const Curve& curve, double tokens) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  const auto next = std::lower_bound(curve.tokens.begin(), curve.tokens.end(), tokens);
  if (next == curve.tokens.end()) return kNone;
  const size_t i = next - curve.tokens.begin();
  if (*next == tokens) return curve.values[i];
  if (i == 0) return kNone;
  const double share = (tokens - curve.tokens[i - 1]) / (*next - curve.tokens[i - 1]);
  return curve.values[i - 1] + share * (curve.values[i] - curve.values[i - 1]);
}

absl::StatusOr<Curve> ReadCurve(Connection& connection, const std::string& job_id,
                                const std::string& name) {
  v1::GetMetricsRequest request;
  request.set_job_id(job_id);
  request.add_names(name);
  request.add_names("tokens");
  Curve curve;
  NIBBLE_RETURN_IF_ERROR(ForEachMetricRow(connection, request, [&](const v1::MetricRow& row) {
    const double value = ValueOf(row, name);
    const double tokens = ValueOf(row, "tokens");
    if (!std::isfinite(value) || !std::isfinite(tokens)) return;
    if (!curve.tokens.empty() && tokens <= curve.tokens.back()) return;
    curve.tokens.push_back(tokens);
    curve.values.push_back(value);
  }));
  return curve;
}

}  // namespace nibble::client
