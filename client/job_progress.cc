#include "client/job_progress.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "client/metric_rows.h"
#include "client/text.h"

namespace nibble::client {
namespace {

// More than any terminal has columns of dots.
constexpr size_t kMaxPoints = 4096;
// Weight of a new step in the means of speed.
constexpr double kNewWeight = 0.1;

void Average(double value, double* mean) {
  if (!std::isfinite(value) || value <= 0) return;
  *mean = *mean == 0 ? value : *mean + kNewWeight * (value - *mean);
}

}  // namespace

void JobProgress::CutFrom(int64_t step, Series* series) {
  while (!series->x.empty() && series->x.back() >= static_cast<double>(step)) {
    series->x.pop_back();
    series->y.pop_back();
  }
}

void JobProgress::Thin(Series* series) {
  if (series->x.size() <= kMaxPoints) return;
  size_t kept = 0;
  for (size_t i = 0; i < series->x.size(); ++i) {
    // The newest point stays.
    if (i % 2 == 1 && i + 1 != series->x.size()) continue;
    series->x[kept] = series->x[i];
    series->y[kept++] = series->y[i];
  }
  series->x.resize(kept);
  series->y.resize(kept);
}

void JobProgress::AddRow(const v1::MetricRow& row) {
  CutFrom(row.step(), &loss_);
  CutFrom(row.step(), &validation_);
  const auto add = [&](const char* name, Series* series) {
    const double value = ValueOf(row, name);
    if (!std::isfinite(value)) return;
    series->x.push_back(static_cast<double>(row.step()));
    series->y.push_back(value);
    Thin(series);
  };
  add("loss", &loss_);
  add("validation_loss", &validation_);
  const auto take = [&](const char* name, double* target) {
    if (row.values().contains(name)) *target = ValueOf(row, name);
  };
  take("learning_rate", &learning_rate_);
  take("grad_norm", &grad_norm_);
  take("validation_bits_per_byte", &validation_bits_per_byte_);
  Average(ValueOf(row, "step_seconds"), &step_seconds_);
  Average(ValueOf(row, "tokens_per_second"), &tokens_per_second_);
}

bool JobProgress::Finished() const {
  return deleted_ || (IsTerminal(job_.state()) && metrics_ended_);
}

int64_t JobProgress::step() const {
  return loss_.x.empty() ? job_.step()
                         : std::max(job_.step(), static_cast<int64_t>(loss_.x.back()));
}

double JobProgress::loss() const {
  return loss_.y.empty() ? std::numeric_limits<double>::quiet_NaN() : loss_.y.back();
}

double JobProgress::tokens_per_second() const { return tokens_per_second_; }

double JobProgress::SecondsLeft() const {
  if (step_seconds_ == 0 || job_.total_steps() <= 0) return -1;
  // From the newest row: the job's own count may be ahead of the rows that are still to come.
  const int64_t done = loss_.x.empty() ? job_.step() : static_cast<int64_t>(loss_.x.back());
  return static_cast<double>(std::max<int64_t>(0, job_.total_steps() - done)) * step_seconds_;
}

std::vector<Series> JobProgress::Curves() const {
  std::vector<Series> curves = {loss_};
  if (validation_.x.size() > 1) curves.push_back(validation_);
  return curves;
}

}  // namespace nibble::client
