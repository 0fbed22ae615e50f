// Both services over a loopback connection, with a worker that the test plays.
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

#include <atomic>
#include <future>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/rpc_test_server.h"

namespace nibble::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class RpcTest : public ::testing::Test {
 protected:
  grpc::Status TrySubmit(const v1::SubmitJobRequest& request, v1::SubmitJobResponse* response) {
    return server_.training()->SubmitJob(Context().get(), request, response);
  }
  v1::Job Submit(const std::string& request_id = "") {
    v1::SubmitJobRequest request;
    *request.mutable_spec() = TinySpec();
    request.set_request_id(request_id);
    v1::SubmitJobResponse response;
    const grpc::Status status = TrySubmit(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job();
  }
  v1::Job Get(const std::string& job_id) {
    v1::GetJobRequest request;
    request.set_job_id(job_id);
    v1::Job job;
    const grpc::Status status = server_.training()->GetJob(Context().get(), request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }
  template <typename Request, typename Response>
  grpc::Status OnJob(grpc::Status (v1::TrainingService::Stub::*method)(grpc::ClientContext*,
                                                                       const Request&, Response*),
                     const std::string& job_id) {
    Request request;
    request.set_job_id(job_id);
    Response response;
    return (server_.training()->*method)(Context().get(), request, &response);
  }
  // Submits a job and lets `worker`, registered with one slot, take it.
  v1::AttemptKey StartOn(FakeWorker* worker) {
    const v1::Job job = Submit();
    worker->OpenAssignments();
    const v1::AssignmentList list = worker->AwaitAssignments(1);
    EXPECT_EQ(list.assignments(0).key().job_id(), job.job_id());
    EXPECT_EQ(list.assignments(0).action(), v1::Assignment::RUN);
    EXPECT_EQ(list.assignments(0).spec().name(), "tiny");
    EXPECT_TRUE(worker->Report(list.assignments(0).key(), v1::ReportAttemptRequest::TRAINING).ok());
    return list.assignments(0).key();
  }

  TestServer server_;
};

TEST_F(RpcTest, AJobThatWaitsIsExplainedChangedAndLetThrough) {
  FakeWorker worker(&server_, "i1");
  worker.Register(1);
  const v1::AttemptKey key = StartOn(&worker);
  const v1::Job waits = Submit();
  v1::ExplainJobRequest explain;
  explain.set_job_id(waits.job_id());
  v1::ExplainJobResponse why;
  ASSERT_TRUE(server_.training()->ExplainJob(Context().get(), explain, &why).ok());
  EXPECT_EQ(why.job().state(), v1::QUEUED);
  ASSERT_EQ(why.reasons_size(), 1);
  EXPECT_EQ(why.reasons(0).code(), v1::BlockingReason::SLOTS_BUSY);
  ASSERT_EQ(why.holders_size(), 1);
  EXPECT_EQ(why.holders(0).job_id(), key.job_id());
  EXPECT_FALSE(why.has_predicted_start());
  ASSERT_EQ(why.causes_size(), 1);
  EXPECT_EQ(why.causes(0).after(), v1::QUEUED);

  v1::UpdateJobRequest update;
  update.set_job_id(waits.job_id());
  update.set_priority(7);
  (*update.mutable_labels())["team"] = "x";
  update.set_replace_labels(true);
  update.set_etag(waits.etag());
  v1::Job updated;
  ASSERT_TRUE(server_.training()->UpdateJob(Context().get(), update, &updated).ok());
  EXPECT_EQ(updated.spec().priority(), 7);
  EXPECT_EQ(updated.spec().labels().at("team"), "x");
  const grpc::Status raced = server_.training()->UpdateJob(Context().get(), update, &updated);
  EXPECT_EQ(raced.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(DetailsOf(raced).reason, "ETAG_MISMATCH");
  update.set_etag("x");
  update.set_priority(1001);
  EXPECT_THAT(DetailsOf(server_.training()->UpdateJob(Context().get(), update, &updated)).fields,
              ElementsAre("priority", "etag"));

  v1::DrainWorkerRequest drain;
  drain.set_worker_id("w1");
  drain.set_reason("new disk");
  v1::Worker drained;
  ASSERT_TRUE(server_.training()->DrainWorker(Context().get(), drain, &drained).ok());
  EXPECT_TRUE(drained.drained());
  ASSERT_TRUE(worker.Report(key, v1::ReportAttemptRequest::SUCCEEDED).ok());
  ASSERT_TRUE(server_.training()->ExplainJob(Context().get(), explain, &why).ok());
  EXPECT_EQ(why.reasons(0).code(), v1::BlockingReason::WORKERS_CLOSED);
  v1::UndrainWorkerRequest undrain;
  undrain.set_worker_id("w1");
  ASSERT_TRUE(server_.training()->UndrainWorker(Context().get(), undrain, &drained).ok());
  EXPECT_FALSE(drained.drained());
  EXPECT_EQ(Get(waits.job_id()).state(), v1::STARTING);
  undrain.set_worker_id("none");
  EXPECT_EQ(server_.training()->UndrainWorker(Context().get(), undrain, &drained).error_code(),
            grpc::StatusCode::NOT_FOUND);
  v1::ListProjectsResponse projects;
  ASSERT_TRUE(server_.training()->ListProjects(Context().get(), {}, &projects).ok());
  ASSERT_EQ(projects.projects_size(), 1);
  EXPECT_EQ(projects.projects(0).name(), "default");
  EXPECT_EQ(projects.projects(0).slots_held(), 1);
}

TEST_F(RpcTest, AJobRunsToItsEnd) {
  FakeWorker worker(&server_, "i1");
  EXPECT_EQ(worker.Register(1).lease_term_ms(), 15'000);
  const v1::AttemptKey key = StartOn(&worker);
  EXPECT_EQ(Get(key.job_id()).state(), v1::RUNNING);
  EXPECT_EQ(Get(key.job_id()).worker_id(), "w1");
  EXPECT_EQ(worker.Renew({key}).renewed_size(), 1);
  v1::AppendMetricsResponse appended;
  ASSERT_TRUE(worker.Append(key, 1, 3, &appended).ok());
  EXPECT_EQ(appended.acknowledged_sequence(), 3);
  ASSERT_TRUE(worker.AppendLog(key, 1, "step 1 \x1b[31m").ok());
  EXPECT_THAT(server_.telemetry()->Text(),
              HasSubstr(absl::StrCat("nibble_job_step{job_id=\"", key.job_id())));
  v1::CommitCheckpointResponse committed;
  for (int step = 1; step <= 3; ++step) ASSERT_TRUE(worker.Commit(key, step, &committed).ok());
  ASSERT_EQ(committed.retained_size(), 2);  // keep: 2
  EXPECT_EQ(committed.retained(0).step(), 3);
  ASSERT_TRUE(worker.Report(key, v1::ReportAttemptRequest::SUCCEEDED).ok());
  EXPECT_EQ(worker.AwaitAssignments(0).assignments_size(), 0);

  const v1::Job job = Get(key.job_id());
  EXPECT_EQ(job.state(), v1::SUCCEEDED);
  EXPECT_EQ(job.step(), 3);
  EXPECT_EQ(job.result().steps(), 3);
  EXPECT_THAT(server_.telemetry()->Text(), Not(HasSubstr(key.job_id())));

  v1::ListCheckpointsRequest list_checkpoints;
  list_checkpoints.set_job_id(key.job_id());
  v1::ListCheckpointsResponse checkpoints;
  ASSERT_TRUE(
      server_.training()->ListCheckpoints(Context().get(), list_checkpoints, &checkpoints).ok());
  EXPECT_EQ(checkpoints.checkpoints_size(), 2);
  v1::StreamLogsRequest stream_logs;
  stream_logs.set_job_id(key.job_id());
  stream_logs.set_follow(true);
  auto context = Context();
  auto logs = server_.training()->StreamLogs(context.get(), stream_logs);
  v1::StreamLogsResponse lines;
  ASSERT_TRUE(logs->Read(&lines));
  EXPECT_EQ(lines.lines(0).text(), "step 1 \\x1b[31m");
  EXPECT_FALSE(logs->Read(&lines));
  EXPECT_TRUE(logs->Finish().ok());
  worker.CloseAssignments();
}

TEST_F(RpcTest, StaleAttemptsAreRefusedByReason) {
  FakeWorker worker(&server_, "i1");
  worker.Register(1);
  const v1::AttemptKey key = StartOn(&worker);
  v1::AttemptKey newer = key;
  newer.set_attempt(2);
  v1::AppendMetricsResponse appended;
  v1::CommitCheckpointResponse committed;
  for (const grpc::Status& status :
       {worker.Append(newer, 1, 1, &appended), worker.Commit(newer, 1, &committed),
        worker.Report(newer, v1::ReportAttemptRequest::TRAINING),
        worker.AppendLog(newer, 1, "x")}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_EQ(DetailsOf(status).reason, "STALE_ATTEMPT");
  }
  EXPECT_EQ(worker.Renew({key, newer}).stale_size(), 1);

  // A new process of the same worker takes over; the old one hears of it on every path.
  FakeWorker second(&server_, "i2");
  second.Register(1, {key});
  const grpc::Status ended = worker.EndOfAssignments();
  EXPECT_EQ(ended.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(ended).reason, "STALE_INCARNATION");
  EXPECT_EQ(DetailsOf(worker.Append(key, 1, 1, &appended)).reason, "STALE_INCARNATION");
  EXPECT_TRUE(second.Append(key, 1, 1, &appended).ok());
  // A gap says where to go on.
  const grpc::Status gap = second.Append(key, 5, 6, &appended);
  EXPECT_EQ(gap.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(gap).reason, "SEQUENCE_GAP");
}

TEST_F(RpcTest, ARestartedDaemonAdoptsByEpoch) {
  FakeWorker worker(&server_, "i1");
  worker.Register(1);
  const v1::AttemptKey key = StartOn(&worker);
  worker.CloseAssignments();
  server_.Restart();
  v1::AppendMetricsResponse appended;
  const grpc::Status unknown = worker.Append(key, 1, 1, &appended);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(unknown).reason, "UNKNOWN_WORKER");
  worker.OpenAssignments();
  EXPECT_EQ(DetailsOf(worker.EndOfAssignments()).reason, "UNKNOWN_WORKER");
  EXPECT_EQ(worker.Register(1, {key}).adopted_size(), 1);
  EXPECT_TRUE(worker.Append(key, 1, 1, &appended).ok());
  EXPECT_EQ(Get(key.job_id()).state(), v1::RUNNING);
  EXPECT_EQ(Get(key.job_id()).attempt(), 1);
}

TEST_F(RpcTest, PauseResumeCancelDelete) {
  FakeWorker worker(&server_, "i1");
  worker.Register(1);
  v1::AttemptKey key = StartOn(&worker);
  using Stub = v1::TrainingService::Stub;
  ASSERT_TRUE(OnJob(&Stub::PauseJob, key.job_id()).ok());
  EXPECT_EQ(Get(key.job_id()).state(), v1::PAUSING);
  EXPECT_EQ(worker.AwaitAction(v1::Assignment::PAUSE).assignments_size(), 1);
  v1::CommitCheckpointResponse committed;
  ASSERT_TRUE(worker.Commit(key, 2, &committed).ok());
  ASSERT_TRUE(worker.Report(key, v1::ReportAttemptRequest::PAUSED).ok());
  EXPECT_EQ(Get(key.job_id()).state(), v1::PAUSED);
  const grpc::Status again = OnJob(&Stub::PauseJob, key.job_id());
  EXPECT_EQ(again.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(again).reason, "WRONG_STATE");
  worker.AwaitAssignments(0);

  ASSERT_TRUE(OnJob(&Stub::ResumeJob, key.job_id()).ok());
  const v1::AssignmentList resumed = worker.AwaitAssignments(1);
  EXPECT_EQ(resumed.assignments(0).key().attempt(), 2);
  EXPECT_EQ(resumed.assignments(0).resume_from().step(), 2);
  key.set_attempt(2);
  EXPECT_EQ(OnJob(&Stub::DeleteJob, key.job_id()).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  ASSERT_TRUE(OnJob(&Stub::CancelJob, key.job_id()).ok());
  EXPECT_EQ(Get(key.job_id()).state(), v1::STOPPING);
  EXPECT_EQ(worker.AwaitAction(v1::Assignment::STOP).assignments_size(), 1);
  ASSERT_TRUE(worker.Report(key, v1::ReportAttemptRequest::STOPPED).ok());
  EXPECT_EQ(Get(key.job_id()).state(), v1::CANCELLED);
  EXPECT_TRUE(OnJob(&Stub::CancelJob, key.job_id()).ok());  // idempotent
  ASSERT_TRUE(OnJob(&Stub::DeleteJob, key.job_id()).ok());
  EXPECT_EQ(OnJob(&Stub::GetJob, key.job_id()).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(OnJob(&Stub::CancelJob, key.job_id())).reason, "JOB_NOT_FOUND");
  v1::AssignmentList purging = worker.AwaitAssignments(0);
  if (purging.purge_job_ids_size() == 0) purging = worker.AwaitAssignments(0);  // of STOPPED
  EXPECT_THAT(purging.purge_job_ids(), ElementsAre(key.job_id()));
  worker.CloseAssignments();
}

TEST_F(RpcTest, WatchJobsShowsEveryChangeAndGoesOnFromACursor) {
  FakeWorker worker(&server_, "i1");
  worker.Register(1);
  const v1::Job job = Submit();
  v1::WatchJobsRequest request;
  request.add_job_ids(job.job_id());
  auto context = Context();
  auto watch = server_.training()->WatchJobs(context.get(), request);
  v1::WatchJobsResponse seen;
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.job().state(), v1::STARTING);
  const std::string cursor = seen.cursor();
  const v1::AttemptKey key = [&] {
    v1::AttemptKey made;
    made.set_job_id(job.job_id());
    made.set_attempt(1);
    return made;
  }();
  ASSERT_TRUE(worker.Report(key, v1::ReportAttemptRequest::TRAINING).ok());
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.job().state(), v1::RUNNING);
  ASSERT_TRUE(worker.Report(key, v1::ReportAttemptRequest::SUCCEEDED).ok());
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.job().state(), v1::SUCCEEDED);
  EXPECT_FALSE(watch->Read(&seen));  // every job named has ended
  EXPECT_TRUE(watch->Finish().ok());

  // From the cursor on the same changes come again, also after a restart of the daemon.
  server_.Restart();
  request.set_cursor(cursor);
  context = Context();
  watch = server_.training()->WatchJobs(context.get(), request);
  std::vector<int> states;
  while (watch->Read(&seen)) states.push_back(seen.job().state());
  EXPECT_THAT(states, ElementsAre(v1::RUNNING, v1::SUCCEEDED));
  EXPECT_TRUE(watch->Finish().ok());

  v1::WatchJobsRequest missing;
  missing.add_job_ids("j-0000000000000000");
  context = Context();
  watch = server_.training()->WatchJobs(context.get(), missing);
  EXPECT_FALSE(watch->Read(&seen));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(RpcTest, WatchingAllJobsListsThemAndThenNewOnesAndDeletions) {
  std::set<std::string> listed;
  const std::string first = Submit().job_id();
  const std::string second = Submit().job_id();
  auto context = Context();
  auto watch = server_.training()->WatchJobs(context.get(), v1::WatchJobsRequest());
  v1::WatchJobsResponse seen;
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(watch->Read(&seen));
    listed.insert(seen.job().job_id());
    EXPECT_EQ(seen.cursor().empty(), i == 0);
  }
  EXPECT_EQ(listed, (std::set<std::string>{first, second}));
  const std::string third = Submit().job_id();
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.job().job_id(), third);
  using Stub = v1::TrainingService::Stub;
  ASSERT_TRUE(OnJob(&Stub::CancelJob, first).ok());
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.job().state(), v1::CANCELLED);
  ASSERT_TRUE(OnJob(&Stub::DeleteJob, first).ok());
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_TRUE(seen.deleted());
  EXPECT_EQ(seen.job().job_id(), first);
  context->TryCancel();
  while (watch->Read(&seen)) {
  }
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(RpcTest, WatchMetricsFollowsAndEndsWithTheJob) {
  FakeWorker worker(&server_, "i1");
  worker.Register(1);
  const v1::AttemptKey key = StartOn(&worker);
  v1::AppendMetricsResponse appended;
  ASSERT_TRUE(worker.Append(key, 1, 2, &appended).ok());
  v1::WatchMetricsRequest request;
  request.set_job_id(key.job_id());
  request.set_after_step(1);
  auto context = Context();
  auto watch = server_.training()->WatchMetrics(context.get(), request);
  v1::WatchMetricsResponse seen;
  ASSERT_TRUE(watch->Read(&seen));
  ASSERT_EQ(seen.rows_size(), 1);
  EXPECT_EQ(seen.rows(0).step(), 2);
  EXPECT_EQ(seen.rows(0).values().at("loss"), 2.5);
  ASSERT_TRUE(worker.Append(key, 3, 3, &appended).ok());
  ASSERT_TRUE(watch->Read(&seen));
  ASSERT_EQ(seen.rows_size(), 1);
  EXPECT_EQ(seen.rows(0).step(), 3);
  ASSERT_TRUE(worker.Report(key, v1::ReportAttemptRequest::SUCCEEDED).ok());
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.state(), v1::SUCCEEDED);
  EXPECT_EQ(seen.rows_size(), 0);
  EXPECT_FALSE(watch->Read(&seen));
  EXPECT_TRUE(watch->Finish().ok());
  worker.CloseAssignments();
}

TEST_F(RpcTest, ListsArePaged) {
  std::set<std::string> submitted;
  for (int i = 0; i < 7; ++i) submitted.insert(Submit().job_id());
  v1::ListJobsRequest request;
  request.set_page_size(3);
  std::set<std::string> listed;
  int pages = 0;
  v1::ListJobsResponse response;
  do {
    ASSERT_TRUE(server_.training()->ListJobs(Context().get(), request, &response).ok());
    for (const v1::Job& job : response.jobs()) EXPECT_TRUE(listed.insert(job.job_id()).second);
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!response.next_page_token().empty());
  EXPECT_EQ(listed, submitted);
  EXPECT_EQ(pages, 3);
  // A token of these filters is none of others.
  request.set_page_size(3);
  request.clear_page_token();
  ASSERT_TRUE(server_.training()->ListJobs(Context().get(), request, &response).ok());
  request.set_page_token(response.next_page_token());
  request.set_name("other");
  const grpc::Status status = server_.training()->ListJobs(Context().get(), request, &response);
  EXPECT_THAT(DetailsOf(status).fields, ElementsAre("page_token"));

  v1::ListEventsRequest events;
  events.set_page_size(4);
  v1::ListEventsResponse event_page;
  ASSERT_TRUE(server_.training()->ListEvents(Context().get(), events, &event_page).ok());
  ASSERT_EQ(event_page.events_size(), 4);
  events.set_page_token(event_page.next_page_token());
  const int64_t last = event_page.events(3).event_id();
  ASSERT_TRUE(server_.training()->ListEvents(Context().get(), events, &event_page).ok());
  EXPECT_GT(event_page.events(0).event_id(), last);
}

TEST_F(RpcTest, MetricsArePagedRangedAndThinned) {
  FakeWorker worker(&server_, "i1");
  worker.Register(1);
  const v1::AttemptKey key = StartOn(&worker);
  v1::AppendMetricsResponse appended;
  ASSERT_TRUE(worker.Append(key, 1, 100, &appended).ok());
  v1::GetMetricsRequest request;
  request.set_job_id(key.job_id());
  request.add_names("loss");
  request.set_first_step(11);
  request.set_last_step(60);
  request.set_page_size(30);
  v1::GetMetricsResponse response;
  std::vector<int64_t> steps;
  do {
    ASSERT_TRUE(server_.training()->GetMetrics(Context().get(), request, &response).ok());
    for (const v1::MetricRow& row : response.rows()) {
      EXPECT_EQ(row.values_size(), 1);
      steps.push_back(row.step());
    }
    request.set_page_token(response.next_page_token());
  } while (!response.next_page_token().empty());
  ASSERT_EQ(steps.size(), 50u);
  EXPECT_EQ(steps.front(), 11);
  EXPECT_EQ(steps.back(), 60);
  request = v1::GetMetricsRequest();
  request.set_job_id(key.job_id());
  request.set_max_points(5);
  ASSERT_TRUE(server_.training()->GetMetrics(Context().get(), request, &response).ok());
  ASSERT_EQ(response.rows_size(), 5);
  EXPECT_EQ(response.rows(0).step(), 1);
  EXPECT_EQ(response.rows(4).step(), 100);
  worker.CloseAssignments();
}

TEST_F(RpcTest, SubmissionIsIdempotentByRequestId) {
  const v1::Job job = Submit("key-1");
  EXPECT_EQ(Submit("key-1").job_id(), job.job_id());
  EXPECT_NE(Submit("key-2").job_id(), job.job_id());
  v1::SubmitJobRequest other;
  *other.mutable_spec() = TinySpec();
  other.mutable_spec()->set_name("other");
  other.set_request_id("key-1");
  v1::SubmitJobResponse response;
  const grpc::Status status = TrySubmit(other, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(DetailsOf(status).reason, "REQUEST_ID_REUSED");
}

TEST_F(RpcTest, ValidateOnlyStoresNothing) {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = TinySpec();
  request.set_validate_only(true);
  v1::SubmitJobResponse response;
  ASSERT_TRUE(TrySubmit(request, &response).ok());
  EXPECT_THAT(response.job().job_id(), IsEmpty());
  EXPECT_EQ(response.job().total_steps(), 3);
  EXPECT_GT(response.job().precision().linears_size(), 0);
  v1::ListJobsResponse list;
  ASSERT_TRUE(server_.training()->ListJobs(Context().get(), v1::ListJobsRequest(), &list).ok());
  EXPECT_EQ(list.jobs_size(), 0);
}

// One hundred submissions with one key at once: one job.
TEST_F(RpcTest, ConcurrentRepeatsMakeOneJob) {
  std::vector<std::future<std::string>> answers;
  for (int i = 0; i < 8; ++i) {
    answers.push_back(std::async(std::launch::async, [this] {
      std::string job_id;
      for (int j = 0; j < 12; ++j) job_id = Submit("same").job_id();
      return job_id;
    }));
  }
  std::set<std::string> ids;
  for (auto& answer : answers) ids.insert(answer.get());
  EXPECT_EQ(ids.size(), 1u);
}

TEST_F(RpcTest, ManyIdleWorkersHoldNoThreads) {
  // 200 streams wait on this machine's handful of gRPC threads, and calls are still answered.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::AssignmentList>>> streams;
  FakeWorker worker(&server_, "i1");
  worker.Register(1);
  v1::WatchAssignmentsRequest request;
  request.set_worker_id("w1");
  request.set_incarnation("i1");
  for (int i = 0; i < 200; ++i) {
    contexts.push_back(Context());
    streams.push_back(server_.worker()->WatchAssignments(contexts.back().get(), request));
    v1::AssignmentList list;
    ASSERT_TRUE(streams.back()->Read(&list));
  }
  Submit();
  for (auto& stream : streams) {
    v1::AssignmentList list;
    ASSERT_TRUE(stream->Read(&list));
    EXPECT_EQ(list.assignments_size(), 1);
  }
  for (auto& context : contexts) context->TryCancel();
  for (auto& stream : streams) stream->Finish();
}

TEST_F(RpcTest, ServerInfoAndWorkersAreShown) {
  FakeWorker worker(&server_, "i1");
  worker.Register(3);
  Submit();
  v1::ServerInfo info;
  ASSERT_TRUE(
      server_.training()->GetServerInfo(Context().get(), v1::GetServerInfoRequest(), &info).ok());
  EXPECT_EQ(info.jobs(), 1);
  EXPECT_EQ(info.state_directory(), "/state");
  v1::ListWorkersResponse workers;
  ASSERT_TRUE(
      server_.training()->ListWorkers(Context().get(), v1::ListWorkersRequest(), &workers).ok());
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).state(), v1::Worker::ONLINE);
  EXPECT_EQ(workers.workers(0).slots(), 3);
  EXPECT_EQ(workers.workers(0).slots_used(), 1);
}

// grpc.health.v1.Health: field 1 of the answer is 1 (SERVING).
TEST_F(RpcTest, HealthSaysServing) {
  grpc::GenericStub stub(server_.channel());
  const grpc::Slice empty;
  const grpc::ByteBuffer request(&empty, 1);
  grpc::ByteBuffer response;
  auto context = Context();
  std::promise<grpc::Status> done;
  stub.UnaryCall(context.get(), "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request,
                 &response, [&](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  EXPECT_TRUE(status.ok()) << status.error_message();
  grpc::Slice slice;
  ASSERT_TRUE(response.DumpToSingleSlice(&slice).ok());
  EXPECT_EQ(std::string(slice.begin(), slice.end()), "\x08\x01");
}

TEST(GrpcServerTest, RefusesToListenInTheOpenWithoutTls) {
  const auto code = [](const std::string& address, bool insecure) {
    GrpcServerOptions options;
    options.listen = {address};
    options.insecure = insecure;
    return GrpcServer::Start(options, {}).status().code();
  };
  for (const char* open : {"0.0.0.0:0", "[::]:0", "10.1.2.3:0", "127.example.com:0"}) {
    EXPECT_EQ(code(open, false), absl::StatusCode::kInvalidArgument) << open;
  }
  EXPECT_EQ(code("127.0.0.1:99999", false), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("127.0.0.1", false), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("10.255.255.254:0", true), absl::StatusCode::kUnavailable);  // not ours
  EXPECT_TRUE(IsLoopback("127.0.0.1:1"));
  EXPECT_TRUE(IsLoopback("localhost:1"));
  EXPECT_TRUE(IsLoopback("[::1]:1"));
  EXPECT_FALSE(IsLoopback("0.0.0.0:1"));
}

}  // namespace
}  // namespace nibble::rpc
