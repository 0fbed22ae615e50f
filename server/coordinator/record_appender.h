// Takes what trainers report: checks that the attempt may write, appends to the metric store, tells
// telemetry and watchers.
#ifndef SERVER_COORDINATOR_RECORD_APPENDER_H_
#define SERVER_COORDINATOR_RECORD_APPENDER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/work_pool.h"
#include "server/store/metric_store.h"
#include "server/telemetry/telemetry.h"

namespace nibble::coordinator {

struct AppendRequest {
  std::string worker_id;
  std::string incarnation;
  store::MetricSource source;
  std::vector<store::MetricRecord> metrics;  // of AppendMetrics
  std::vector<store::LogRecord> logs;        // of AppendLogs
  int64_t size_bytes = 0;                    // about what it holds in memory
};

// The answer to an append: the last sequence that is there, or why nothing was written. Refusals of
// the scheduler are in `refusal`, others in `status`.
struct AppendOutcome {
  absl::Status status;
  scheduler::Error refusal;
  int64_t acknowledged_sequence = 0;
};
using AppendCallback = std::function<void(const AppendOutcome&)>;

// Appends that wait for the store, all together; beyond it they are refused.
inline constexpr int64_t kMaxWaitingAppendBytes = 64 << 20;

// Thread-safe.
class RecordAppender {
 public:
  RecordAppender(Coordinator* coordinator, store::MetricStore* store,
                 telemetry::Telemetry* telemetry, WorkPool* pool)
      : coordinator_(coordinator), store_(store), telemetry_(telemetry), pool_(pool) {}

  // `callback` runs exactly once, on a thread that must not be blocked.
  void AppendMetrics(AppendRequest request, AppendCallback callback);
  void AppendLogs(AppendRequest request, AppendCallback callback);

 private:
  using Write = std::function<absl::StatusOr<int64_t>(const AppendRequest&)>;
  void Append(AppendRequest request, AppendCallback callback, Write write);
  void Enqueue(std::shared_ptr<const AppendRequest> request, const AppendCallback& callback,
               const Write& write);
  absl::StatusOr<int64_t> WriteMetrics(const AppendRequest& request);
  void Report(const AppendRequest& request, int64_t already_there);

  Coordinator* const coordinator_;
  store::MetricStore* const store_;
  telemetry::Telemetry* const telemetry_;
  WorkPool* const pool_;
  std::atomic<int64_t> waiting_bytes_{0};
};

}  // namespace nibble::coordinator

#endif  // SERVER_COORDINATOR_RECORD_APPENDER_H_
