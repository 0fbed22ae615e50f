// What happens to some jobs, as a queue that survives restarts of the daemon.
#ifndef CLIENT_WATCH_FEED_H_
#define CLIENT_WATCH_FEED_H_

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "client/connection.h"
#include "nibble/v1/training_service.pb.h"

namespace nibble::client {

// One thing that was learnt; of the members, those are set that it brings.
struct WatchUpdate {
  std::string job_id;
  std::unique_ptr<v1::Job> job;
  bool deleted = false;
  std::vector<v1::MetricRow> rows;
  // No more rows will come for this job.
  bool metrics_ended = false;
  // The feed cannot go on: an error other than a lost connection, or the connection was lost for
  // longer than it waits.
  absl::Status error;
};

struct WatchFeedOptions {
  // First at most this many evenly spaced rows of the past instead of all; 0 for all.
  int history_points = 0;
  // How long to try again after the first call failed, and after the connection was lost.
  absl::Duration first_window = absl::Seconds(3);
  absl::Duration reconnect_window = absl::Minutes(10);
};

// Reads the streams of all jobs on threads of its own (one for the states, one a job for metrics).
class WatchFeed {
 public:
  // `connection` must outlive the feed.
  WatchFeed(Connection* connection, const std::vector<std::string>& job_ids,
            const WatchFeedOptions& options);
  // Ends the streams and joins the threads.
  ~WatchFeed();

  // Everything learnt since the last call; waits up to `wait` for something. Called from one
  // thread.
  std::deque<WatchUpdate> Take(absl::Duration wait);
  // False while the daemon cannot be reached.
  bool connected() const;

 private:
  class Retries;
  void ReadJobs(const std::vector<std::string>& job_ids);
  void ReadMetrics(const std::string& job_id, StreamCanceller* canceller);
  // OK where every job has ended or is gone: streams end by themselves then. UNAVAILABLE: one has
  // not, so a daemon that shuts down ended the stream.
  absl::Status CheckEnded(const std::vector<std::string>& job_ids);
  absl::Status ReadHistory(const std::string& job_id, int64_t* after_step);
  void Push(WatchUpdate update);
  void PushRows(const std::string& job_id, std::vector<v1::MetricRow> rows);
  void SetConnected(bool connected);
  // False where the feed ends.
  bool Sleep(absl::Duration time);

  Connection* const connection_;
  const WatchFeedOptions options_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<WatchUpdate> updates_ GUARDED_BY(mutex_);
  bool connected_ GUARDED_BY(mutex_) = true;
  bool ending_ GUARDED_BY(mutex_) = false;
  std::vector<std::unique_ptr<StreamCanceller>> cancellers_;
  std::vector<std::thread> threads_;
};

}  // namespace nibble::client

#endif  // CLIENT_WATCH_FEED_H_
