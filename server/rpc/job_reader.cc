#include "server/rpc/job_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/rpc/conversions.h"
#include "server/rpc/grpc_status.h"

namespace nibble::rpc {

absl::StatusOr<scheduler::JobRecord> JobReader::Record(const std::string& job_id) const {
  absl::StatusOr<scheduler::JobRecord> record = store_->GetJob(job_id);
  if (absl::IsNotFound(record.status())) {
    return WithReason(absl::NotFoundError(absl::StrCat("no job ", job_id)),
                      scheduler::ErrorReasonName(scheduler::ErrorReason::kJobNotFound),
                      {{"job_id", job_id}});
  }
  return record;
}

absl::StatusOr<v1::Job> JobReader::Read(const std::string& job_id) const {
  NIBBLE_ASSIGN_OR_RETURN(const scheduler::JobRecord record, Record(job_id));
  return Show(record);
}

absl::StatusOr<v1::Job> JobReader::Show(const scheduler::JobRecord& record) const {
  NIBBLE_ASSIGN_OR_RETURN(std::vector<v1::Job> jobs, ShowAll({record}));
  return std::move(jobs[0]);
}

absl::StatusOr<std::vector<v1::Job>> JobReader::ShowAll(
    const std::vector<scheduler::JobRecord>& records) const {
  // Only jobs that ever started have metrics.
  std::vector<std::string> started;
  for (const auto& record : records) {
    if (record.attempt > 0) started.push_back(record.job_id);
  }
  std::vector<int64_t> last_steps;
  if (!started.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(last_steps, metric_store_->LastSteps(started));
  }
  std::vector<v1::Job> jobs;
  size_t next = 0;
  for (const auto& record : records) {
    const int64_t last_step = record.attempt > 0 ? last_steps[next++] : 0;
    NIBBLE_ASSIGN_OR_RETURN(v1::Job job, ToProto(record, last_step));
    jobs.push_back(std::move(job));
  }
  return jobs;
}

}  // namespace nibble::rpc
