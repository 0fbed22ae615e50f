// Handlers of TrainingService that concern the sharing of slots and the care of the daemon.
#include <charconv>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/rpc/conversions.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/training_api.h"

namespace nibble::rpc {
namespace {

constexpr char kActor[] = "user";
constexpr int32_t kMaxPriority = 1000;
constexpr size_t kMaxReasonBytes = 256;
constexpr size_t kMaxCauses = 50;

// An etag is the job's revision; 0 where it is empty, -1 where it is none.
int64_t RevisionOf(const std::string& etag) {
  int64_t revision = 0;
  const auto [end, error] = std::from_chars(etag.data(), etag.data() + etag.size(), revision);
  if (etag.empty()) return 0;
  return error == std::errc() && end == etag.data() + etag.size() && revision > 0 ? revision : -1;
}

coordinator::OutcomeCallback AnswerWithWorker(Reply<v1::Worker> reply) {
  return [reply = std::move(reply)](const coordinator::Outcome& outcome) {
    const absl::Status status = ToStatus(outcome);
    if (!status.ok()) return reply(status);
    reply(ToProto(std::get<scheduler::WorkerInfo>(outcome.reply.answer)));
  };
}

}  // namespace

void TrainingApi::UpdateJob(const v1::UpdateJobRequest& request, Reply<v1::Job> reply) {
  RequestChecker check;
  check.JobId(request.job_id(), "job_id");
  check.InRange(request.priority(), {-kMaxPriority, kMaxPriority}, "priority");
  check.Labels(request.labels(), "labels");
  if (!request.labels().empty() && !request.replace_labels()) {
    check.Add("replace_labels", "is false, but labels are given; required: true");
  }
  const int64_t revision = RevisionOf(request.etag());
  if (revision < 0) check.Add("etag", "is none that a Job ever had");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  scheduler::UpdateRequested event{request.job_id(), {}, {}, revision, kActor};
  if (request.has_priority()) event.priority = request.priority();
  if (request.replace_labels()) {
    event.labels.emplace(request.labels().begin(), request.labels().end());
  }
  parts_.coordinator->Post(std::move(event), [this, reply](const coordinator::Outcome& outcome) {
    AnswerWithJob(outcome, reply);
  });
}

absl::StatusOr<v1::ExplainJobResponse> TrainingApi::Explain(const std::string& job_id) const {
  NIBBLE_ASSIGN_OR_RETURN(const scheduler::JobRecord record, reader_.Record(job_id));
  v1::ExplainJobResponse response;
  if (const auto explanation = parts_.coordinator->Explain(job_id))
    response = ToProto(*explanation);
  NIBBLE_ASSIGN_OR_RETURN(*response.mutable_job(), reader_.Show(record));
  // The newest changes; histories are short, and pages of them cheap.
  std::vector<scheduler::JobEventRecord> causes;
  store::EventQuery query;
  query.job_id = job_id;
  query.limit = 1000;
  do {
    NIBBLE_ASSIGN_OR_RETURN(store::EventPage page, parts_.store->ListEvents(query));
    for (auto& event : page.events) causes.push_back(std::move(event));
    if (causes.size() > kMaxCauses) causes.erase(causes.begin(), causes.end() - kMaxCauses);
    query.after_event_id = page.next;
  } while (query.after_event_id != 0);
  for (const auto& event : causes) *response.add_causes() = ToProto(event);
  return response;
}

void TrainingApi::ExplainJob(const v1::ExplainJobRequest& request,
                             Reply<v1::ExplainJobResponse> reply) {
  RequestChecker check;
  check.JobId(request.job_id(), "job_id");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  AnswerFromPool<v1::ExplainJobResponse>(parts_.pool, std::move(reply),
                                         [this, id = request.job_id()] { return Explain(id); });
}

void TrainingApi::DrainWorker(const v1::DrainWorkerRequest& request, Reply<v1::Worker> reply) {
  RequestChecker check;
  check.WorkerName(request.worker_id(), "worker_id");
  check.Text(request.reason(), kMaxReasonBytes, "reason");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  parts_.coordinator->Post(
      scheduler::DrainRequested{request.worker_id(), request.reason(), request.evict(), kActor},
      AnswerWithWorker(std::move(reply)));
}

void TrainingApi::UndrainWorker(const v1::UndrainWorkerRequest& request, Reply<v1::Worker> reply) {
  RequestChecker check;
  check.WorkerName(request.worker_id(), "worker_id");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  parts_.coordinator->Post(scheduler::UndrainRequested{request.worker_id(), kActor},
                           AnswerWithWorker(std::move(reply)));
}

void TrainingApi::ListProjects(const v1::ListProjectsRequest&,
                               Reply<v1::ListProjectsResponse> reply) {
  v1::ListProjectsResponse response;
  for (const auto& project : parts_.coordinator->Projects()) {
    *response.add_projects() = ToProto(project);
  }
  reply(std::move(response));
}

void TrainingApi::BackupState(const v1::BackupStateRequest& request,
                              Reply<v1::BackupStateResponse> reply) {
  RequestChecker check;
  check.Name(request.name(), "name");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  using Answer = absl::StatusOr<v1::BackupStateResponse>;
  AnswerFromPool<v1::BackupStateResponse>(
      parts_.pool, std::move(reply), [this, name = request.name()]() -> Answer {
        if (parts_.back_up == nullptr) return absl::UnimplementedError("nothing is kept on disk");
        NIBBLE_ASSIGN_OR_RETURN(const auto copied, parts_.back_up(name));
        v1::BackupStateResponse response;
        response.set_path(copied.first);
        response.set_size_bytes(copied.second);
        return response;
      });
}

}  // namespace nibble::rpc
