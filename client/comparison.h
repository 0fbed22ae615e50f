// Two jobs side by side: the numbers behind `nibble compare`.
#ifndef CLIENT_COMPARISON_H_
#define CLIENT_COMPARISON_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/metric_rows.h"
#include "nibble/v1/job.pb.h"

namespace nibble::client {

// What a job reached: its result where it succeeded, otherwise the same from its rows so far. NaN
// where unknown.
struct Reached {
  v1::Job job;
  int64_t steps = 0;
  double tokens = 0;
  double train_loss = 0;
  double validation_loss = 0;
  double validation_bits_per_byte = 0;
  double tokens_per_second = 0;
  Curve curve;  // of the compared metric
};

absl::StatusOr<Reached> ReadReached(Connection& connection, const std::string& reference,
                                    const std::string& metric);

// (a - b) / b at a number of tokens.
struct Gap {
  double tokens = 0;
  double a = 0;
  double b = 0;
  double relative = 0;
};

// At A's points that lie within B's range, with B interpolated linearly between its points. Curves
// of more than `most` points are first averaged over `most` windows of equal numbers of points.
std::vector<Gap> Gaps(const Curve& a, const Curve& b, int most);

}  // namespace nibble::client

#endif  // CLIENT_COMPARISON_H_
