#include "worker/agent/testing/fake_daemon.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace nibble::agent {

bool FakeDaemon::IsLive(const v1::AttemptKey& key) const {
  return std::find(live.begin(), live.end(), Key(key.job_id(), key.attempt())) != live.end();
}

absl::Status FakeDaemon::Check(const v1::AttemptKey* key) const {
  if (down) return absl::UnavailableError("the daemon is down");
  if (!knows_worker) {
    return StatusWithReason(absl::NotFoundError("unknown worker"), kUnknownWorkerReason);
  }
  if (key != nullptr && !IsLive(*key)) {
    return StatusWithReason(absl::FailedPreconditionError("stale"), kStaleAttemptReason);
  }
  return absl::OkStatus();
}

void FakeDaemon::Register(const v1::RegisterWorkerRequest& request,
                          Done<v1::RegisterWorkerResponse> done) {
  if (down) return done(absl::UnavailableError("the daemon is down"));
  registration = request;
  knows_worker = true;
  log.push_back(absl::StrCat("register ", request.running_size()));
  v1::RegisterWorkerResponse response;
  response.set_lease_term_ms(lease_term_ms);
  for (const v1::AttemptKey& key : request.running()) {
    if (IsLive(key)) *response.add_adopted() = key;
  }
  done(response);
}

void FakeDaemon::RenewLeases(const v1::RenewLeasesRequest& request,
                             Done<v1::RenewLeasesResponse> done) {
  if (hold_renewals) {
    held_renewals_.push_back([this, request, done] { RenewLeases(request, done); });
    return;
  }
  const absl::Status status = Check(nullptr);
  if (!status.ok()) return done(status);
  if (!renewal_error.ok()) return done(renewal_error);
  ++renewals;
  v1::RenewLeasesResponse response;
  response.set_lease_term_ms(lease_term_ms);
  for (const v1::AttemptKey& key : request.attempts()) {
    *(IsLive(key) ? response.add_renewed() : response.add_stale()) = key;
  }
  for (const std::string& job_id : request.purged_job_ids()) purged.push_back(job_id);
  done(response);
}

void FakeDaemon::ReportAttempt(const v1::ReportAttemptRequest& request,
                               Done<v1::ReportAttemptResponse> done) {
  const absl::Status status = Check(&request.key());
  if (!status.ok()) return done(status);
  log.push_back(v1::ReportAttemptRequest::Status_Name(request.status()));
  reports.push_back(request);
  done(v1::ReportAttemptResponse());
}

void FakeDaemon::CommitCheckpoint(const v1::CommitCheckpointRequest& request,
                                  Done<v1::CommitCheckpointResponse> done) {
  v1::AttemptKey key;
  key.set_job_id(request.checkpoint().job_id());
  key.set_attempt(request.checkpoint().attempt());
  const absl::Status status = Check(&key);
  if (!status.ok()) return done(status);
  if (!commit_refusal.ok()) return done(commit_refusal);
  log.push_back(absl::StrCat("commit ", request.checkpoint().step()));
  checkpoints.insert(checkpoints.begin(), request.checkpoint());
  if (static_cast<int>(checkpoints.size()) > keep) checkpoints.resize(keep);
  v1::CommitCheckpointResponse response;
  for (const v1::Checkpoint& checkpoint : checkpoints) *response.add_retained() = checkpoint;
  done(response);
}

void FakeDaemon::AppendMetrics(const v1::AppendMetricsRequest& request,
                               Done<v1::AppendMetricsResponse> done) {
  const absl::Status status = Check(&request.key());
  if (!status.ok()) return done(status);
  std::vector<v1::MetricRecord>& rows = metrics[{request.key().job_id(), request.key().attempt()}];
  const int64_t expected = static_cast<int64_t>(rows.size()) + 1;
  const int64_t first = request.records(0).sequence();
  if (first > expected) {
    return done(StatusWithReason(absl::FailedPreconditionError("gap"), "METRIC_GAP", expected));
  }
  for (const v1::MetricRecord& record : request.records()) {
    if (record.sequence() == static_cast<int64_t>(rows.size()) + 1) rows.push_back(record);
  }
  log.push_back(absl::StrCat("metrics ", first, "-", rows.size()));
  if (silent_metrics) return done(absl::DeadlineExceededError("the answer was lost"));
  v1::AppendMetricsResponse response;
  response.set_acknowledged_sequence(rows.size());
  done(response);
}

void FakeDaemon::AppendLogs(const v1::AppendLogsRequest& request,
                            Done<v1::AppendLogsResponse> done) {
  const absl::Status status = Check(&request.key());
  if (!status.ok()) return done(status);
  for (const v1::LogRecord& record : request.records()) {
    lines[{request.key().job_id(), request.key().attempt()}].push_back(record.text());
  }
  v1::AppendLogsResponse response;
  response.set_acknowledged_sequence(request.records(request.records_size() - 1).sequence());
  done(response);
}

void FakeDaemon::WatchAssignments(const v1::WatchAssignmentsRequest&,
                                  std::function<void(v1::AssignmentList)> on_list,
                                  std::function<void(absl::Status)> on_end) {
  if (down) return on_end(absl::UnavailableError("the daemon is down"));
  on_list_ = std::move(on_list);
  on_end_ = std::move(on_end);
}

}  // namespace nibble::agent
