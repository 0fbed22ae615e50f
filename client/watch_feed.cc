#include "client/watch_feed.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/metric_rows.h"
#include "client/text.h"

namespace nibble::client {

// Decides after each broken stream whether to open it again.
class WatchFeed::Retries {
 public:
  explicit Retries(WatchFeed* feed) : feed_(feed) {}

  // Call before each try.
  void Begin() { try_start_ = absl::Now(); }
  // Call when something was received.
  void Succeeded() {
    ever_ = true;
    failing_since_ = absl::InfiniteFuture();
    delay_ = kFirstDelay;
    feed_->SetConnected(true);
  }
  // Waits and returns true where the call should be made again; false where `status` is final.
  bool ShouldRetry(const absl::Status& status) {
    // A daemon that shuts down cancels its streams; that we do so ends in Sleep.
    if (!absl::IsUnavailable(status) && !absl::IsCancelled(status)) return false;
    feed_->SetConnected(false);
    const absl::Time now = absl::Now();
    // A stream may be silent for long; only a short one says that nobody answers.
    const bool held = now - try_start_ > kHeldLong;
    failing_since_ = held ? now : std::min(failing_since_, now);
    const absl::Duration window =
        ever_ || held ? feed_->options_.reconnect_window : feed_->options_.first_window;
    if (now - failing_since_ > window) return false;
    const absl::Duration delay = delay_;
    delay_ = std::min(2 * delay_, absl::Seconds(2));
    return feed_->Sleep(delay);
  }

 private:
  static constexpr absl::Duration kFirstDelay = absl::Milliseconds(100);
  // Longer than gRPC tries to connect.
  static constexpr absl::Duration kHeldLong = absl::Seconds(30);
  WatchFeed* const feed_;
  bool ever_ = false;
  absl::Time try_start_;
  absl::Time failing_since_ = absl::InfiniteFuture();
  absl::Duration delay_ = kFirstDelay;
};

WatchFeed::WatchFeed(Connection* connection, const std::vector<std::string>& job_ids,
                     const WatchFeedOptions& options)
    : connection_(connection), options_(options) {
  for (size_t i = 0; i < job_ids.size() + 1; ++i) {
    cancellers_.push_back(std::make_unique<StreamCanceller>());
  }
  threads_.emplace_back([this, job_ids] { ReadJobs(job_ids); });
  for (size_t i = 0; i < job_ids.size(); ++i) {
    threads_.emplace_back([this, id = job_ids[i], canceller = cancellers_[i + 1].get()] {
      ReadMetrics(id, canceller);
    });
  }
}

WatchFeed::~WatchFeed() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
    changed_.SignalAll();
  }
  for (const auto& canceller : cancellers_) canceller->Cancel();
  for (std::thread& thread : threads_) thread.join();
}

std::deque<WatchUpdate> WatchFeed::Take(absl::Duration wait) {
  MutexLock lock(mutex_);
  if (updates_.empty()) changed_.WaitForNanos(mutex_, absl::ToInt64Nanoseconds(wait));
  return std::exchange(updates_, {});
}

bool WatchFeed::connected() const {
  MutexLock lock(mutex_);
  return connected_;
}

void WatchFeed::SetConnected(bool connected) {
  MutexLock lock(mutex_);
  if (connected_ != connected) changed_.SignalAll();
  connected_ = connected;
}

bool WatchFeed::Sleep(absl::Duration time) {
  const absl::Time end = absl::Now() + time;
  MutexLock lock(mutex_);
  while (!ending_ && absl::Now() < end) {
    changed_.WaitForNanos(mutex_, absl::ToInt64Nanoseconds(end - absl::Now()));
  }
  return !ending_;
}

void WatchFeed::Push(WatchUpdate update) {
  MutexLock lock(mutex_);
  updates_.push_back(std::move(update));
  changed_.SignalAll();
}

void WatchFeed::PushRows(const std::string& job_id, std::vector<v1::MetricRow> rows) {
  if (rows.empty()) return;
  WatchUpdate update;
  update.job_id = job_id;
  update.rows = std::move(rows);
  Push(std::move(update));
}

absl::Status WatchFeed::CheckEnded(const std::vector<std::string>& job_ids) {
  for (const std::string& id : job_ids) {
    const absl::StatusOr<v1::Job> job = connection_->GetJob(id);
    if (absl::IsNotFound(job.status())) continue;
    if (!job.ok()) return job.status();
    if (!IsTerminal(job->state())) return absl::UnavailableError("the stream ended early");
  }
  return absl::OkStatus();
}

void WatchFeed::ReadJobs(const std::vector<std::string>& job_ids) {
  // No cursor: the state of every job comes first on each connection, and only states matter here.
  v1::WatchJobsRequest request;
  for (const std::string& id : job_ids) request.add_job_ids(id);
  Retries retries(this);
  absl::Status status;
  do {
    retries.Begin();
    status = connection_->WatchJobs(request, cancellers_[0].get(),
                                    [&](const v1::WatchJobsResponse& response) {
                                      retries.Succeeded();
                                      WatchUpdate update;
                                      update.job_id = response.job().job_id();
                                      update.deleted = response.deleted();
                                      update.job = std::make_unique<v1::Job>(response.job());
                                      Push(std::move(update));
                                      return true;
                                    });
    if (status.ok()) status = CheckEnded(job_ids);
  } while (!status.ok() && retries.ShouldRetry(status));
  if (status.ok() || cancellers_[0]->cancelled()) return;
  WatchUpdate update;
  update.error = status;
  Push(std::move(update));
}

absl::Status WatchFeed::ReadHistory(const std::string& job_id, int64_t* after_step) {
  if (options_.history_points == 0 || *after_step > 0) return absl::OkStatus();
  v1::GetMetricsRequest request;
  request.set_job_id(job_id);
  request.set_max_points(options_.history_points);
  std::vector<v1::MetricRow> rows;
  NIBBLE_RETURN_IF_ERROR(ForEachMetricRow(*connection_, request,
                                          [&](const v1::MetricRow& row) { rows.push_back(row); }));
  for (const v1::MetricRow& row : rows) *after_step = std::max(*after_step, row.step());
  PushRows(job_id, std::move(rows));
  return absl::OkStatus();
}

void WatchFeed::ReadMetrics(const std::string& job_id, StreamCanceller* canceller) {
  Retries retries(this);
  v1::WatchMetricsRequest request;
  request.set_job_id(job_id);
  int64_t after_step = 0;
  absl::Status status;
  do {
    retries.Begin();
    status = ReadHistory(job_id, &after_step);
    if (!status.ok()) continue;
    request.set_after_step(after_step);
    status = connection_->WatchMetrics(
        request, canceller, [&](const v1::WatchMetricsResponse& response) {
          retries.Succeeded();
          for (const v1::MetricRow& row : response.rows()) {
            after_step = std::max(after_step, row.step());
          }
          PushRows(job_id, {response.rows().begin(), response.rows().end()});
          return true;
        });
    if (status.ok()) status = CheckEnded({job_id});
  } while (!status.ok() && retries.ShouldRetry(status));
  if (canceller->cancelled()) return;
  WatchUpdate update;
  update.job_id = job_id;
  update.metrics_ended = true;
  // A job that was deleted has no metrics; that it was, the other stream says.
  if (!absl::IsNotFound(status)) update.error = status;
  Push(std::move(update));
}

}  // namespace nibble::client
