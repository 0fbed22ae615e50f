// Metrics of a job, all pages of them.
#ifndef CLIENT_METRIC_ROWS_H_
#define CLIENT_METRIC_ROWS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/connection.h"
#include "nibble/v1/training_service.pb.h"

namespace nibble::client {

// Calls `each` for every row that the request asks for, in the server's order.
absl::Status ForEachMetricRow(Connection& connection, v1::GetMetricsRequest request,
                              const std::function<void(const v1::MetricRow&)>& each);

// The value called `name`, or NaN where the row has none.
double ValueOf(const v1::MetricRow& row, const std::string& name);

// A curve over the tokens trained on, ascending.
struct Curve {
  std::vector<double> tokens;
  std::vector<double> values;
};

// The value after so many tokens, on a line between the neighbouring rows; NaN outside of the
// curve.
double ValueAt(const Curve& curve, double tokens);

// Rows of a job that have `name`, over their cumulative token count.
absl::StatusOr<Curve> ReadCurve(Connection& connection, const std::string& job_id,
                                const std::string& name);

}  // namespace nibble::client

#endif  // CLIENT_METRIC_ROWS_H_
