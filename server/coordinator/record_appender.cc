#include "server/coordinator/record_appender.h"

#include <memory>
#include <utility>

#include "base/status_macros.h"

namespace nibble::coordinator {

void RecordAppender::AppendMetrics(AppendRequest request, AppendCallback callback) {
  Append(std::move(request), std::move(callback),
         [this](const AppendRequest& checked) { return WriteMetrics(checked); });
}

void RecordAppender::AppendLogs(AppendRequest request, AppendCallback callback) {
  Append(std::move(request), std::move(callback),
         [this](const AppendRequest& checked) -> absl::StatusOr<int64_t> {
           NIBBLE_ASSIGN_OR_RETURN(const int64_t last,
                                   store_->AppendLogs(checked.source, checked.logs));
           coordinator_->feed().Publish(LogsTopic(checked.source.attempt.job_id));
           return last;
         });
}

void RecordAppender::Append(AppendRequest request, AppendCallback callback, Write write) {
  auto shared = std::make_shared<AppendRequest>(std::move(request));
  coordinator_->CheckAttempt(shared->worker_id, shared->incarnation, shared->source.attempt,
                             [this, shared, callback = std::move(callback),
                              write = std::move(write)](const Outcome& checked) {
                               AppendOutcome outcome;
                               outcome.status = checked.status;
                               outcome.refusal = checked.reply.error;
                               if (!outcome.status.ok() || !outcome.refusal.ok())
                                 return callback(outcome);
                               Enqueue(shared, callback, write);
                             });
}

void RecordAppender::Enqueue(std::shared_ptr<const AppendRequest> request,
                             const AppendCallback& callback, const Write& write) {
  const int64_t bytes = request->size_bytes;
  const bool fits = waiting_bytes_.fetch_add(bytes) + bytes <= kMaxWaitingAppendBytes;
  const bool taken = fits && pool_->Submit([this, request, callback, write] {
    AppendOutcome written;
    absl::StatusOr<int64_t> last = write(*request);
    waiting_bytes_.fetch_sub(request->size_bytes);
    written.status = last.status();
    if (last.ok()) written.acknowledged_sequence = *last;
    if (absl::IsUnavailable(last.status())) coordinator_->StoreFailed(last.status());
    callback(written);
  });
  if (taken) return;
  waiting_bytes_.fetch_sub(bytes);
  AppendOutcome refused;
  refused.status = absl::ResourceExhaustedError("too many appends wait; try again later");
  callback(refused);
}

absl::StatusOr<int64_t> RecordAppender::WriteMetrics(const AppendRequest& request) {
  // Records that are sent again must not count twice in telemetry.
  NIBBLE_ASSIGN_OR_RETURN(const int64_t already_there, store_->LastSequence(request.source));
  NIBBLE_ASSIGN_OR_RETURN(const int64_t last, store_->Append(request.source, request.metrics));
  Report(request, already_there);
  coordinator_->feed().Publish(MetricsTopic(request.source.attempt.job_id));
  return last;
}

void RecordAppender::Report(const AppendRequest& request, int64_t already_there) {
  if (request.source.rank != 0) return;
  std::vector<telemetry::TrainingStepReport> steps;
  for (const store::MetricRecord& record : request.metrics) {
    if (record.sequence <= already_there) continue;
    telemetry::TrainingStepReport report;
    report.step = record.step;
    report.values.insert(record.values.begin(), record.values.end());
    steps.push_back(std::move(report));
  }
  if (!steps.empty()) telemetry_->TrainingSteps(request.source.attempt.job_id, steps);
}

}  // namespace nibble::coordinator
