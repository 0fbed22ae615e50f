#include "server/rpc/training_api.h"

#include <algorithm>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "proto/spec/job_resolution.h"
#include "server/rpc/conversions.h"
#include "server/rpc/job_watch.h"
#include "server/rpc/log_watch.h"
#include "server/rpc/metric_watch.h"
#include "server/rpc/page_token.h"
#include "server/rpc/request_checks.h"

namespace nibble::rpc {
namespace {

constexpr char kActor[] = "user";
constexpr int kDefaultPage = 100;
constexpr int kMaxPage = 1000;
constexpr int kDefaultMetricPage = 10'000;
constexpr int kMaxMetricPage = 100'000;
constexpr int kMaxPoints = 10'000;
constexpr int kMaxWatchedJobs = 100;
constexpr int kMaxLabels = 32;
constexpr int kMaxNames = 64;
// A page ends early rather than outgrow the 4 MiB that gRPC clients accept by default.
constexpr size_t kMaxPageBytes = 3 << 20;

// What this daemon refuses beyond what every spec must keep to.
void CheckAgainstDaemon(const v1::JobSpec& spec, const ApiParts& parts,
                        std::vector<spec::FieldError>* errors) {
  if (spec.resources().slots() > parts.max_job_slots) {
    errors->push_back({"resources.slots",
                       absl::StrCat("is ", spec.resources().slots(), "; this daemon allows 1 to ",
                                    parts.max_job_slots, " (nibbled --max-job-slots)")});
  }
  const auto& projects = parts.projects;
  if (std::find(projects.begin(), projects.end(), spec.project()) == projects.end()) {
    errors->push_back({"project", absl::StrCat("is '", spec.project(), "'; this daemon has ",
                                               absl::StrJoin(projects, ", "))});
  }
}

// The spec, complete, or INVALID_ARGUMENT with paths that start with `spec.`.
absl::StatusOr<spec::ResolvedJob> Resolve(const v1::JobSpec& spec, const ApiParts& parts) {
  std::vector<spec::FieldError> errors;
  absl::StatusOr<spec::ResolvedJob> resolved = spec::ResolveJob(spec, &errors);
  if (resolved.ok()) CheckAgainstDaemon(resolved->spec, parts, &errors);
  if (resolved.ok() && errors.empty()) return resolved;
  if (errors.empty()) errors.push_back({"", std::string(resolved.status().message())});
  for (spec::FieldError& error : errors) {
    error.field = error.field.empty() ? "spec" : absl::StrCat("spec.", error.field);
  }
  return InvalidFields(errors);
}

v1::SubmitJobResponse ValidationAnswer(const spec::ResolvedJob& resolved) {
  v1::SubmitJobResponse response;
  *response.mutable_job()->mutable_spec() = resolved.spec;
  *response.mutable_job()->mutable_precision() = resolved.precision;
  response.mutable_job()->set_total_steps(resolved.total_steps);
  response.mutable_job()->set_parameters(resolved.parameters);
  for (const std::string& warning : resolved.warnings) response.add_warnings(warning);
  return response;
}

// What a token of ListJobs was made under.
std::string FiltersOf(const v1::ListJobsRequest& request) {
  v1::ListJobsRequest filters = request;
  filters.clear_page_size();
  filters.clear_page_token();
  const std::map<std::string, std::string> labels(filters.labels().begin(), filters.labels().end());
  filters.clear_labels();
  return absl::StrCat(filters.SerializeAsString(), "|",
                      absl::StrJoin(labels, "|", absl::PairFormatter("=")));
}

std::string FiltersOf(const v1::GetMetricsRequest& request) {
  v1::GetMetricsRequest filters = request;
  filters.clear_page_size();
  filters.clear_page_token();
  return filters.SerializeAsString();
}

absl::StatusOr<store::JobQuery> QueryOf(const v1::ListJobsRequest& request) {
  RequestChecker check;
  check.InRange(request.page_size(), {0, kMaxPage}, "page_size");
  check.Text(request.name(), 63, "name");
  check.Count(request.labels_size(), kMaxLabels, "labels");
  check.Count(request.states_size(), kMaxLabels, "states");
  store::JobQuery query;
  for (int i = 0; i < request.states_size(); ++i) {
    check.InRange(request.states(i), {v1::QUEUED, v1::CANCELLED}, absl::StrCat("states[", i, "]"));
    query.states.push_back(static_cast<scheduler::JobState>(request.states(i)));
  }
  NIBBLE_RETURN_IF_ERROR(check.Result());
  query.name = request.name();
  query.labels.insert(request.labels().begin(), request.labels().end());
  query.limit = request.page_size() == 0 ? kDefaultPage : request.page_size();
  if (!request.page_token().empty()) {
    NIBBLE_ASSIGN_OR_RETURN(
        const Position position,
        DecodePageToken(request.page_token(), TokenKind::kJobs, FiltersOf(request), "page_token"));
    query.before_sequence = position[0];
  }
  return query;
}

absl::StatusOr<store::MetricQuery> QueryOf(const v1::GetMetricsRequest& request) {
  RequestChecker check;
  check.JobId(request.job_id(), "job_id");
  check.Count(request.names_size(), kMaxNames, "names");
  check.InRange(request.first_step(), {0, INT64_MAX}, "first_step");
  check.InRange(request.last_step(), {0, INT64_MAX}, "last_step");
  if (request.max_points() != 0) check.InRange(request.max_points(), {2, kMaxPoints}, "max_points");
  check.InRange(request.page_size(), {0, kMaxMetricPage}, "page_size");
  NIBBLE_RETURN_IF_ERROR(check.Result());
  store::MetricQuery query;
  query.job_id = request.job_id();
  query.names.assign(request.names().begin(), request.names().end());
  query.first_step = request.first_step();
  query.last_step = request.last_step();
  query.max_points = request.max_points();
  query.include_superseded = request.include_superseded();
  query.limit = request.page_size() == 0 ? kDefaultMetricPage : request.page_size();
  if (!request.page_token().empty()) {
    NIBBLE_ASSIGN_OR_RETURN(const Position position,
                            DecodePageToken(request.page_token(), TokenKind::kMetrics,
                                            FiltersOf(request), "page_token"));
    query.after = {position[0], static_cast<int32_t>(position[1]), position[2]};
  }
  return query;
}

}  // namespace

absl::Status ToStatus(const coordinator::Outcome& outcome) {
  if (outcome.status.ok()) {
    return outcome.reply.error.ok() ? absl::OkStatus() : ToStatus(outcome.reply.error);
  }
  return outcome.reason.empty() ? outcome.status : WithReason(outcome.status, outcome.reason);
}

void TrainingApi::SubmitJob(const v1::SubmitJobRequest& request,
                            Reply<v1::SubmitJobResponse> reply) {
  RequestChecker check;
  check.RequestId(request.request_id(), "request_id");
  if (!request.has_spec()) check.Add("spec", "is missing; required");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  absl::StatusOr<spec::ResolvedJob> resolved = Resolve(request.spec(), parts_);
  if (!resolved.ok()) return reply(resolved.status());
  if (request.validate_only()) return reply(ValidationAnswer(*resolved));
  scheduler::JobSubmitted event;
  event.job_id = MakeId("j-", *parts_.random);
  event.document = MakeDocument(request.spec(), *resolved, request.request_id());
  event.actor = kActor;
  auto answer = [reply, warnings = std::move(resolved->warnings)](absl::StatusOr<v1::Job> job) {
    if (!job.ok()) return reply(job.status());
    v1::SubmitJobResponse response;
    *response.mutable_job() = *std::move(job);
    for (const std::string& warning : warnings) response.add_warnings(warning);
    reply(std::move(response));
  };
  parts_.coordinator->Post(std::move(event), [this, answer](const coordinator::Outcome& outcome) {
    AnswerWithJob(outcome, answer);
  });
}

void TrainingApi::AnswerWithJob(const coordinator::Outcome& outcome, Reply<v1::Job> reply) {
  const absl::Status status = ToStatus(outcome);
  if (!status.ok()) return reply(status);
  AnswerFromPool<v1::Job>(parts_.pool, std::move(reply),
                          [this, record = std::get<scheduler::JobRecord>(outcome.reply.answer)] {
                            return reader_.Show(record);
                          });
}

template <typename Requested>
void TrainingApi::ChangeJob(const std::string& job_id, Reply<v1::Job> reply) {
  RequestChecker check;
  check.JobId(job_id, "job_id");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  parts_.coordinator->Post(
      Requested{job_id, kActor},
      [this, reply](const coordinator::Outcome& outcome) { AnswerWithJob(outcome, reply); });
}

void TrainingApi::CancelJob(const v1::CancelJobRequest& request, Reply<v1::Job> reply) {
  ChangeJob<scheduler::CancelRequested>(request.job_id(), std::move(reply));
}

void TrainingApi::PauseJob(const v1::PauseJobRequest& request, Reply<v1::Job> reply) {
  ChangeJob<scheduler::PauseRequested>(request.job_id(), std::move(reply));
}

void TrainingApi::ResumeJob(const v1::ResumeJobRequest& request, Reply<v1::Job> reply) {
  ChangeJob<scheduler::ResumeRequested>(request.job_id(), std::move(reply));
}

void TrainingApi::DeleteJob(const v1::DeleteJobRequest& request,
                            Reply<v1::DeleteJobResponse> reply) {
  RequestChecker check;
  check.JobId(request.job_id(), "job_id");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  parts_.coordinator->Post(scheduler::DeleteRequested{request.job_id(), kActor},
                           [reply](const coordinator::Outcome& outcome) {
                             const absl::Status status = ToStatus(outcome);
                             if (!status.ok()) return reply(status);
                             reply(v1::DeleteJobResponse());
                           });
}

void TrainingApi::GetJob(const v1::GetJobRequest& request, Reply<v1::Job> reply) {
  RequestChecker check;
  check.JobId(request.job_id(), "job_id");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  AnswerFromPool<v1::Job>(parts_.pool, std::move(reply),
                          [this, id = request.job_id()] { return reader_.Read(id); });
}

void TrainingApi::ListJobs(const v1::ListJobsRequest& request, Reply<v1::ListJobsResponse> reply) {
  absl::StatusOr<store::JobQuery> query = QueryOf(request);
  if (!query.ok()) return reply(query.status());
  using Answer = absl::StatusOr<v1::ListJobsResponse>;
  auto list = [this, query = *std::move(query), filters = FiltersOf(request)]() -> Answer {
    NIBBLE_ASSIGN_OR_RETURN(const store::JobPage page, parts_.store->ListJobs(query));
    NIBBLE_ASSIGN_OR_RETURN(std::vector<v1::Job> jobs, reader_.ShowAll(page.jobs));
    v1::ListJobsResponse response;
    int64_t next = page.next;
    size_t bytes = 0;
    for (size_t i = 0; i < jobs.size(); ++i) {
      bytes += jobs[i].ByteSizeLong();
      if (bytes > kMaxPageBytes && i > 0) {
        next = page.jobs[i - 1].submit_sequence;
        break;
      }
      *response.add_jobs() = std::move(jobs[i]);
    }
    if (next != 0) {
      response.set_next_page_token(EncodePageToken(TokenKind::kJobs, filters, {next, 0, 0}));
    }
    return response;
  };
  AnswerFromPool<v1::ListJobsResponse>(parts_.pool, std::move(reply), std::move(list));
}

void TrainingApi::GetMetrics(const v1::GetMetricsRequest& request,
                             Reply<v1::GetMetricsResponse> reply) {
  absl::StatusOr<store::MetricQuery> query = QueryOf(request);
  if (!query.ok()) return reply(query.status());
  using Answer = absl::StatusOr<v1::GetMetricsResponse>;
  auto read = [this, query = *std::move(query), filters = FiltersOf(request)]() -> Answer {
    NIBBLE_RETURN_IF_ERROR(reader_.Record(query.job_id).status());
    NIBBLE_ASSIGN_OR_RETURN(const store::MetricPage page, parts_.metric_store->Read(query));
    v1::GetMetricsResponse response;
    std::optional<store::MetricCursor> next = page.next;
    size_t bytes = 0;
    for (size_t i = 0; i < page.rows.size(); ++i) {
      v1::MetricRow row = ToProto(page.rows[i]);
      bytes += row.ByteSizeLong();
      // A down-sampled answer has no pages, and at most kMaxPoints rows.
      if (bytes > kMaxPageBytes && i > 0 && query.max_points == 0) {
        const store::MetricRow& last = page.rows[i - 1];
        next = store::MetricCursor{last.step, last.rank, last.attempt};
        break;
      }
      *response.add_rows() = std::move(row);
    }
    if (next.has_value()) {
      response.set_next_page_token(
          EncodePageToken(TokenKind::kMetrics, filters, {next->step, next->rank, next->attempt}));
    }
    return response;
  };
  AnswerFromPool<v1::GetMetricsResponse>(parts_.pool, std::move(reply), std::move(read));
}

void TrainingApi::ListCheckpoints(const v1::ListCheckpointsRequest& request,
                                  Reply<v1::ListCheckpointsResponse> reply) {
  RequestChecker check;
  check.JobId(request.job_id(), "job_id");
  const absl::Status checked = check.Result();
  if (!checked.ok()) return reply(checked);
  using Answer = absl::StatusOr<v1::ListCheckpointsResponse>;
  auto list = [this, job_id = request.job_id()]() -> Answer {
    NIBBLE_RETURN_IF_ERROR(reader_.Record(job_id).status());
    NIBBLE_ASSIGN_OR_RETURN(const auto checkpoints, parts_.store->ListCheckpoints(job_id));
    v1::ListCheckpointsResponse response;
    for (const auto& checkpoint : checkpoints) *response.add_checkpoints() = ToProto(checkpoint);
    return response;
  };
  AnswerFromPool<v1::ListCheckpointsResponse>(parts_.pool, std::move(reply), std::move(list));
}

void TrainingApi::ListEvents(const v1::ListEventsRequest& request,
                             Reply<v1::ListEventsResponse> reply) {
  RequestChecker check;
  check.OptionalJobId(request.job_id(), "job_id");
  check.InRange(request.page_size(), {0, kMaxPage}, "page_size");
  absl::Status checked = check.Result();
  store::EventQuery query;
  query.job_id = request.job_id();
  query.limit = request.page_size() == 0 ? kDefaultPage : request.page_size();
  if (checked.ok() && !request.page_token().empty()) {
    const auto position =
        DecodePageToken(request.page_token(), TokenKind::kEvents, request.job_id(), "page_token");
    checked = position.status();
    if (position.ok()) query.after_event_id = (*position)[0];
  }
  if (!checked.ok()) return reply(checked);
  using Answer = absl::StatusOr<v1::ListEventsResponse>;
  auto list = [this, query]() -> Answer {
    if (!query.job_id.empty()) NIBBLE_RETURN_IF_ERROR(reader_.Record(query.job_id).status());
    NIBBLE_ASSIGN_OR_RETURN(const store::EventPage page, parts_.store->ListEvents(query));
    v1::ListEventsResponse response;
    for (const auto& event : page.events) *response.add_events() = ToProto(event);
    if (page.next != 0) {
      response.set_next_page_token(
          EncodePageToken(TokenKind::kEvents, query.job_id, {page.next, 0, 0}));
    }
    return response;
  };
  AnswerFromPool<v1::ListEventsResponse>(parts_.pool, std::move(reply), std::move(list));
}

void TrainingApi::ListWorkers(const v1::ListWorkersRequest&, Reply<v1::ListWorkersResponse> reply) {
  v1::ListWorkersResponse response;
  for (const auto& worker : parts_.coordinator->Workers())
    *response.add_workers() = ToProto(worker);
  reply(std::move(response));
}

void TrainingApi::GetServerInfo(const v1::GetServerInfoRequest&, Reply<v1::ServerInfo> reply) {
  using Answer = absl::StatusOr<v1::ServerInfo>;
  AnswerFromPool<v1::ServerInfo>(parts_.pool, std::move(reply), [this]() -> Answer {
    NIBBLE_ASSIGN_OR_RETURN(const auto counts, parts_.store->CountJobs());
    v1::ServerInfo info;
    info.set_version(parts_.version);
    info.set_commit(parts_.commit);
    SetTimestamp(parts_.start_micros, info.mutable_start_time());
    info.set_metrics_address(parts_.metrics_address);
    info.set_state_directory(parts_.state_directory);
    int64_t jobs = 0;
    for (const int64_t count : counts) jobs += count;
    info.set_jobs(jobs);
    return info;
  });
}

TrainingApi::Source<v1::WatchJobsResponse> TrainingApi::WatchJobs(
    const v1::WatchJobsRequest& request) {
  RequestChecker check;
  check.Count(request.job_ids_size(), kMaxWatchedJobs, "job_ids");
  for (int i = 0; i < request.job_ids_size(); ++i) {
    check.JobId(request.job_ids(i), absl::StrCat("job_ids[", i, "]"));
  }
  NIBBLE_RETURN_IF_ERROR(check.Result());
  return MakeJobWatch(parts_, request);
}

TrainingApi::Source<v1::WatchMetricsResponse> TrainingApi::WatchMetrics(
    const v1::WatchMetricsRequest& request) {
  RequestChecker check;
  check.JobId(request.job_id(), "job_id");
  check.Count(request.names_size(), kMaxNames, "names");
  check.InRange(request.after_step(), {0, INT64_MAX - 1}, "after_step");
  NIBBLE_RETURN_IF_ERROR(check.Result());
  return MakeMetricWatch(parts_, request);
}

TrainingApi::Source<v1::StreamLogsResponse> TrainingApi::StreamLogs(
    const v1::StreamLogsRequest& request) {
  RequestChecker check;
  check.JobId(request.job_id(), "job_id");
  check.InRange(request.rank(), {0, 1 << 20}, "rank");
  check.InRange(request.attempt(), {0, INT64_MAX}, "attempt");
  NIBBLE_RETURN_IF_ERROR(check.Result());
  return MakeLogWatch(parts_, request);
}

}  // namespace nibble::rpc
