// Metric rows of one rank of an attempt on their way to the daemon: kept until acknowledged, and
// the newest acknowledged ones a while longer, because metrics.db may lose its tail in a power cut.
#ifndef WORKER_AGENT_METRIC_QUEUE_H_
#define WORKER_AGENT_METRIC_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nibble/v1/worker_service.pb.h"

namespace nibble::agent {

class MetricQueue {
 public:
  // Acknowledged rows that are kept to be sent again.
  static constexpr size_t kKeptRows = 4096;
  // Rows waiting for the daemon before the trainer is held up: about 20 MB, and more steps than a
  // real model makes in an orphan limit.
  static constexpr size_t kMaxWaitingRows = 100'000;
  // Of one AppendMetrics; control messages stay under 256 KiB.
  static constexpr size_t kMaxBatchRows = 512;
  static constexpr size_t kMaxBatchBytes = 128 * 1024;

  // INVALID_ARGUMENT where the sequence does not follow the one before.
  absl::Status Push(const v1::MetricRecord& record);

  bool full() const { return waiting() >= kMaxWaitingRows; }
  // Rows pushed and not acknowledged.
  size_t waiting() const { return static_cast<size_t>(last_ - acknowledged_); }
  int64_t acknowledged() const { return acknowledged_; }
  // Sequence and step of the newest row pushed; 0 for none.
  int64_t last_sequence() const { return last_; }
  int64_t last_step() const { return last_step_; }

  // The oldest rows that are not acknowledged.
  void FillBatch(v1::AppendMetricsRequest* request) const;

  // Every row up to `sequence` is durable. Ignored where it is older than what is known, or beyond
  // what was pushed.
  void Acknowledge(int64_t sequence);

  // The daemon lost what comes from `sequence` on: it is sent again. DATA_LOSS where those rows
  // are not kept any more; INVALID_ARGUMENT where they never were.
  absl::Status RewindTo(int64_t sequence);

  // Sends the newest acknowledged row again, which shows whether a restarted daemon still has it.
  void RewindOne();

 private:
  void Trim();

  std::deque<std::string> rows_;  // serialised, a tenth of the message's size in memory
  int64_t first_ = 1;             // sequence of rows_.front()
  int64_t last_ = 0;              // of rows_.back()
  int64_t acknowledged_ = 0;
  int64_t last_step_ = 0;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_METRIC_QUEUE_H_
