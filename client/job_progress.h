// What a watched job has come to so far, from its states and metric rows.
#ifndef CLIENT_JOB_PROGRESS_H_
#define CLIENT_JOB_PROGRESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/plot.h"
#include "nibble/v1/training_service.pb.h"

namespace nibble::client {

class JobProgress {
 public:
  explicit JobProgress(std::string job_id) { job_.set_job_id(std::move(job_id)); }

  void SetJob(const v1::Job& job) { job_ = job; }
  // A row of a step that was seen already takes the place of everything from that step on: a later
  // attempt trains it again.
  void AddRow(const v1::MetricRow& row);
  void SetDeleted() { deleted_ = true; }
  void SetMetricsEnded() { metrics_ended_ = true; }

  const v1::Job& job() const { return job_; }
  bool deleted() const { return deleted_; }
  // In its last state, and all rows are here.
  bool Finished() const;
  // Newest step known.
  int64_t step() const;
  // Over the newest steps; 0 before the first.
  double tokens_per_second() const;
  // By the speed of the newest steps; negative where unknown.
  double SecondsLeft() const;
  // NaN before the first.
  double loss() const;
  double learning_rate() const { return learning_rate_; }
  double grad_norm() const { return grad_norm_; }
  bool has_validation() const { return !validation_.x.empty(); }
  double validation_loss() const { return validation_.y.back(); }
  double validation_bits_per_byte() const { return validation_bits_per_byte_; }
  int64_t validation_step() const { return static_cast<int64_t>(validation_.x.back()); }
  // Loss and, where there is one, validation loss over steps; thinned out when they grow long.
  std::vector<Series> Curves() const;

 private:
  static void CutFrom(int64_t step, Series* series);
  static void Thin(Series* series);

  v1::Job job_;
  bool deleted_ = false;
  bool metrics_ended_ = false;
  Series loss_{"loss", {}, {}, Color::kCyan};
  Series validation_{"validation", {}, {}, Color::kYellow};
  double validation_bits_per_byte_ = 0;
  double learning_rate_ = 0;
  double grad_norm_ = 0;
  // Exponential means; 0 before the first row.
  double step_seconds_ = 0;
  double tokens_per_second_ = 0;
};

}  // namespace nibble::client

#endif  // CLIENT_JOB_PROGRESS_H_
