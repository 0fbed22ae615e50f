#include "client/fake_daemon.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/mutex.h"
#include "client/text.h"
#include "nibble/v1/training_service.grpc.pb.h"

namespace nibble::client {
namespace {

using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;

struct Failure {
  absl::Status status;
  std::string details;
  int times = 0;
};

struct JobRecord {
  v1::Job job;
  std::vector<v1::MetricRow> rows;
  std::vector<v1::LogLine> lines;
  std::vector<v1::Checkpoint> checkpoints;
  int64_t version = 0;
};

}  // namespace

struct FakeDaemon::Impl : public v1::TrainingService::Service {
  mutable Mutex mutex;
  CondVar changed;
  std::vector<std::string> order;  // oldest first
  std::map<std::string, JobRecord> jobs;
  std::vector<v1::JobEvent> events;
  std::vector<v1::Worker> workers;
  std::map<std::string, Failure> failures;
  std::map<std::string, int> delays;
  std::map<std::string, int> call_counts;
  std::map<std::string, bool> lost_answers;
  std::map<std::string, std::string> by_request_id;
  std::vector<v1::SubmitJobRequest> submissions;
  std::vector<int64_t> metric_cursors;
  size_t job_streams = 0;  // WatchJobs calls that have told the states of their jobs
  bool stopping = false;
  std::string address;
  std::unique_ptr<grpc::Server> server;

  // Counts the call; not OK where the test wants it to fail.
  Status Enter(const std::string& method) {
    int delay = 0;
    {
      MutexLock lock(mutex);
      ++call_counts[method];
      delay = delays[method];
      Failure& failure = failures[method];
      if (failure.times > 0) {
        --failure.times;
        return Status(static_cast<StatusCode>(failure.status.code()),
                      std::string(failure.status.message()), failure.details);
      }
    }
    if (delay > 0) absl::SleepFor(absl::Milliseconds(delay));
    return Status::OK;
  }

  static Status NotFound(const std::string& id) {
    return Status(StatusCode::NOT_FOUND, absl::StrCat("no job ", id));
  }

  Status Find(const std::string& method, const std::string& id, v1::Job* job) {
    if (Status status = Enter(method); !status.ok()) return status;
    MutexLock lock(mutex);
    const auto found = jobs.find(id);
    if (found == jobs.end()) return NotFound(id);
    *job = found->second.job;
    return Status::OK;
  }

  Status Change(const std::string& method, const std::string& id, v1::JobState state,
                v1::Job* job) {
    if (Status status = Find(method, id, job); !status.ok()) return status;
    if (IsTerminal(job->state())) {
      return Status(StatusCode::FAILED_PRECONDITION,
                    absl::StrCat("job ", id, " is ", StateName(job->state())));
    }
    MutexLock lock(mutex);
    JobRecord& record = jobs[id];
    record.job.set_state(state);
    ++record.version;
    changed.SignalAll();
    *job = record.job;
    return Status::OK;
  }

  Status SubmitJob(ServerContext*, const v1::SubmitJobRequest* request,
                   v1::SubmitJobResponse* response) override {
    if (Status status = Enter("SubmitJob"); !status.ok()) return status;
    MutexLock lock(mutex);
    submissions.push_back(*request);
    std::string& id = by_request_id[request->request_id()];
    if (id.empty()) {
      id = absl::StrFormat("j-%016x", 0xabc0 + jobs.size());
      JobRecord& record = jobs[id];
      *record.job.mutable_spec() = request->spec();
      record.job.set_job_id(id);
      record.job.set_state(v1::QUEUED);
      order.push_back(id);
    }
    *response->mutable_job() = jobs[id].job;
    response->add_warnings("a layer falls back to BF16");
    if (std::exchange(lost_answers["SubmitJob"], false)) {
      return Status(StatusCode::UNAVAILABLE, "connection reset");
    }
    return Status::OK;
  }

  Status GetJob(ServerContext*, const v1::GetJobRequest* request, v1::Job* job) override {
    return Find("GetJob", request->job_id(), job);
  }

  Status ListJobs(ServerContext*, const v1::ListJobsRequest* request,
                  v1::ListJobsResponse* response) override {
    if (Status status = Enter("ListJobs"); !status.ok()) return status;
    MutexLock lock(mutex);
    const int page_size = request->page_size() > 0 ? request->page_size() : 100;
    int index = request->page_token().empty() ? 0 : std::stoi(request->page_token());
    for (; index < static_cast<int>(order.size()); ++index) {
      const v1::Job& job = jobs[order[order.size() - 1 - index]].job;
      const auto& states = request->states();
      if (!states.empty() && std::find(states.begin(), states.end(), job.state()) == states.end()) {
        continue;
      }
      if (!request->name().empty() && job.spec().name() != request->name()) continue;
      const auto& labels = job.spec().labels();
      if (std::any_of(request->labels().begin(), request->labels().end(), [&](const auto& label) {
            const auto found = labels.find(label.first);
            return found == labels.end() || found->second != label.second;
          })) {
        continue;
      }
      if (response->jobs_size() == page_size) {
        response->set_next_page_token(absl::StrCat(index));
        break;
      }
      *response->add_jobs() = job;
    }
    return Status::OK;
  }

  Status WatchJobs(ServerContext* context, const v1::WatchJobsRequest* request,
                   grpc::ServerWriter<v1::WatchJobsResponse>* writer) override {
    if (Status status = Enter("WatchJobs"); !status.ok()) return status;
    std::map<std::string, int64_t> sent;
    bool first = true;
    MutexLock lock(mutex);
    for (;;) {
      bool all_ended = true;
      for (const std::string& id : request->job_ids()) {
        const auto found = jobs.find(id);
        if (found == jobs.end()) return NotFound(id);
        if (!IsTerminal(found->second.job.state())) all_ended = false;
        if (sent.count(id) > 0 && sent[id] == found->second.version) continue;
        sent[id] = found->second.version;
        v1::WatchJobsResponse response;
        *response.mutable_job() = found->second.job;
        writer->Write(response);
      }
      if (first) ++job_streams;
      first = false;
      if (all_ended) return Status::OK;
      if (stopping) return Status(StatusCode::UNAVAILABLE, "shutting down");
      if (context->IsCancelled()) return Status::CANCELLED;
      changed.WaitForNanos(mutex, 5'000'000);
    }
  }

  Status CancelJob(ServerContext*, const v1::CancelJobRequest* request, v1::Job* job) override {
    return Change("CancelJob", request->job_id(), v1::STOPPING, job);
  }
  Status PauseJob(ServerContext*, const v1::PauseJobRequest* request, v1::Job* job) override {
    return Change("PauseJob", request->job_id(), v1::PAUSING, job);
  }
  Status ResumeJob(ServerContext*, const v1::ResumeJobRequest* request, v1::Job* job) override {
    return Change("ResumeJob", request->job_id(), v1::QUEUED, job);
  }

  Status DeleteJob(ServerContext*, const v1::DeleteJobRequest* request,
                   v1::DeleteJobResponse*) override {
    v1::Job job;
    if (Status status = Find("DeleteJob", request->job_id(), &job); !status.ok()) return status;
    if (!IsTerminal(job.state())) {
      return Status(StatusCode::FAILED_PRECONDITION,
                    absl::StrCat("job ", job.job_id(), " is ", StateName(job.state())));
    }
    MutexLock lock(mutex);
    jobs.erase(job.job_id());
    order.erase(std::find(order.begin(), order.end(), job.job_id()));
    return Status::OK;
  }

  Status GetMetrics(ServerContext*, const v1::GetMetricsRequest* request,
                    v1::GetMetricsResponse* response) override {
    v1::Job job;
    if (Status status = Find("GetMetrics", request->job_id(), &job); !status.ok()) return status;
    MutexLock lock(mutex);
    const std::vector<v1::MetricRow>& rows = jobs[request->job_id()].rows;
    const size_t page = request->page_size() > 0 ? std::min(request->page_size(), 100) : 100;
    size_t i = request->page_token().empty() ? 0 : std::stoul(request->page_token());
    for (; i < rows.size(); ++i) {
      if (rows[i].step() < request->first_step()) continue;
      if (request->last_step() > 0 && rows[i].step() > request->last_step()) continue;
      if (response->rows_size() == static_cast<int>(page)) {
        response->set_next_page_token(absl::StrCat(i));
        break;
      }
      *response->add_rows() = rows[i];
      const auto& names = request->names();
      if (names.empty()) continue;
      auto* values = response->mutable_rows()->rbegin()->mutable_values();
      for (auto value = values->begin(); value != values->end();) {
        const bool wanted = std::find(names.begin(), names.end(), value->first) != names.end();
        value = wanted ? std::next(value) : values->erase(value);
      }
    }
    return Status::OK;
  }

  Status WatchMetrics(ServerContext* context, const v1::WatchMetricsRequest* request,
                      grpc::ServerWriter<v1::WatchMetricsResponse>* writer) override {
    v1::Job job;
    if (Status status = Find("WatchMetrics", request->job_id(), &job); !status.ok()) return status;
    MutexLock lock(mutex);
    metric_cursors.push_back(request->after_step());
    size_t next = 0;
    for (;;) {
      const JobRecord& record = jobs[request->job_id()];
      v1::WatchMetricsResponse response;
      for (; next < record.rows.size(); ++next) {
        if (record.rows[next].step() > request->after_step()) {
          *response.add_rows() = record.rows[next];
        }
      }
      response.set_state(record.job.state());
      if (response.rows_size() > 0) writer->Write(response);
      if (IsTerminal(record.job.state())) return Status::OK;
      if (stopping) return Status(StatusCode::UNAVAILABLE, "shutting down");
      if (context->IsCancelled()) return Status::CANCELLED;
      changed.WaitForNanos(mutex, 5'000'000);
    }
  }

  Status StreamLogs(ServerContext*, const v1::StreamLogsRequest* request,
                    grpc::ServerWriter<v1::StreamLogsResponse>* writer) override {
    v1::Job job;
    if (Status status = Find("StreamLogs", request->job_id(), &job); !status.ok()) return status;
    MutexLock lock(mutex);
    v1::StreamLogsResponse response;
    for (const v1::LogLine& line : jobs[request->job_id()].lines) {
      if (request->attempt() == 0 || line.attempt() == request->attempt()) {
        *response.add_lines() = line;
      }
    }
    writer->Write(response);
    // One connection in two breaks while the log is followed.
    if (request->follow() && call_counts["StreamLogs"] % 2 == 1) {
      return Status(StatusCode::UNAVAILABLE, "connection reset");
    }
    return Status::OK;
  }

  Status ListCheckpoints(ServerContext*, const v1::ListCheckpointsRequest* request,
                         v1::ListCheckpointsResponse* response) override {
    v1::Job job;
    if (Status status = Find("ListCheckpoints", request->job_id(), &job); !status.ok()) {
      return status;
    }
    MutexLock lock(mutex);
    for (const v1::Checkpoint& checkpoint : jobs[request->job_id()].checkpoints) {
      *response->add_checkpoints() = checkpoint;
    }
    return Status::OK;
  }

  Status ListEvents(ServerContext*, const v1::ListEventsRequest*,
                    v1::ListEventsResponse* response) override {
    if (Status status = Enter("ListEvents"); !status.ok()) return status;
    MutexLock lock(mutex);
    *response->mutable_events() = {events.begin(), events.end()};
    return Status::OK;
  }

  Status ListWorkers(ServerContext*, const v1::ListWorkersRequest*,
                     v1::ListWorkersResponse* response) override {
    if (Status status = Enter("ListWorkers"); !status.ok()) return status;
    MutexLock lock(mutex);
    *response->mutable_workers() = {workers.begin(), workers.end()};
    return Status::OK;
  }

  Status GetServerInfo(ServerContext*, const v1::GetServerInfoRequest*,
                       v1::ServerInfo* info) override {
    if (Status status = Enter("GetServerInfo"); !status.ok()) return status;
    info->set_version("9.8.7");
    info->set_commit("feedface");
    info->mutable_start_time()->set_seconds(1'699'999'000);
    info->set_metrics_address("127.0.0.1:7879");
    info->set_state_directory("/var/lib/nibble");
    info->set_jobs(1234);
    return Status::OK;
  }
};

FakeDaemon::FakeDaemon() : impl_(std::make_unique<Impl>()) {
  impl_->address = "127.0.0.1:0";
  Start();
}

FakeDaemon::~FakeDaemon() { Stop(); }

const std::string& FakeDaemon::address() const { return impl_->address; }

void FakeDaemon::Start() {
  {
    MutexLock lock(impl_->mutex);
    impl_->stopping = false;
  }
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(impl_->address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(impl_.get());
  impl_->server = builder.BuildAndStart();
  NIBBLE_CHECK(impl_->server != nullptr);
  impl_->address = absl::StrCat("127.0.0.1:", port);
}

void FakeDaemon::Stop() {
  if (impl_->server == nullptr) return;
  {
    MutexLock lock(impl_->mutex);
    impl_->stopping = true;
    impl_->changed.SignalAll();
  }
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  impl_->server->Wait();
  impl_->server.reset();
}

void FakeDaemon::PutJob(const v1::Job& job) {
  MutexLock lock(impl_->mutex);
  JobRecord& record = impl_->jobs[job.job_id()];
  if (record.job.job_id().empty()) impl_->order.push_back(job.job_id());
  record.job = job;
  ++record.version;
  impl_->changed.SignalAll();
}

void FakeDaemon::AddRow(const std::string& job_id, const v1::MetricRow& row) {
  MutexLock lock(impl_->mutex);
  impl_->jobs[job_id].rows.push_back(row);
  impl_->changed.SignalAll();
}

void FakeDaemon::AddLogLine(const std::string& job_id, const v1::LogLine& line) {
  MutexLock lock(impl_->mutex);
  impl_->jobs[job_id].lines.push_back(line);
}

void FakeDaemon::AddCheckpoint(const v1::Checkpoint& checkpoint) {
  MutexLock lock(impl_->mutex);
  impl_->jobs[checkpoint.job_id()].checkpoints.push_back(checkpoint);
}

void FakeDaemon::AddEvent(const v1::JobEvent& event) {
  MutexLock lock(impl_->mutex);
  impl_->events.push_back(event);
}

void FakeDaemon::AddWorker(const v1::Worker& worker) {
  MutexLock lock(impl_->mutex);
  impl_->workers.push_back(worker);
}

void FakeDaemon::FailNext(const std::string& method, const absl::Status& status, int times,
                          const std::string& details) {
  MutexLock lock(impl_->mutex);
  impl_->failures[method] = {status, details, times};
}

void FakeDaemon::LoseAnswer(const std::string& method) {
  MutexLock lock(impl_->mutex);
  impl_->lost_answers[method] = true;
}

void FakeDaemon::Delay(const std::string& method, int milliseconds) {
  MutexLock lock(impl_->mutex);
  impl_->delays[method] = milliseconds;
}

int FakeDaemon::calls(const std::string& method) const {
  MutexLock lock(impl_->mutex);
  return impl_->call_counts[method];
}

std::vector<v1::SubmitJobRequest> FakeDaemon::submissions() const {
  MutexLock lock(impl_->mutex);
  return impl_->submissions;
}

size_t FakeDaemon::job_streams() const {
  MutexLock lock(impl_->mutex);
  return impl_->job_streams;
}

std::vector<int64_t> FakeDaemon::metric_cursors() const {
  MutexLock lock(impl_->mutex);
  return impl_->metric_cursors;
}

}  // namespace nibble::client
