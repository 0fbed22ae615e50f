// Log lines of one rank of an attempt on their way to the daemon; best effort. What does not fit
// is dropped, oldest first, and a line says how many.
#ifndef WORKER_AGENT_LOG_QUEUE_H_
#define WORKER_AGENT_LOG_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "nibble/v1/worker_service.pb.h"
#include "worker/agent/trainer_process.h"

namespace nibble::agent {

class LogQueue {
 public:
  static constexpr size_t kMaxWaitingLines = 10'000;
  static constexpr size_t kMaxBatchLines = 256;
  static constexpr size_t kMaxBatchBytes = 128 * 1024;
  static constexpr size_t kTailLines = 5;

  void Push(LogEntry entry);

  bool empty() const { return waiting_.empty() && batch_.records_size() == 0; }

  // The batch to send: the one that was not acknowledged yet, or the next lines. Sequence numbers
  // are given here, so that dropped lines leave no gap.
  void FillBatch(v1::AppendLogsRequest* request);
  // The daemon has the batch, or will never take it.
  void BatchDone() { batch_.Clear(); }

  // The newest lines, for the message of a failure.
  std::string Tail() const;

 private:
  std::deque<LogEntry> waiting_;
  std::deque<std::string> tail_;
  v1::AppendLogsRequest batch_;
  int64_t last_sequence_ = 0;
  int64_t dropped_ = 0;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_LOG_QUEUE_H_
