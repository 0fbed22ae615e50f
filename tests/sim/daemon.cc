#include "tests/sim/daemon.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "server/rpc/conversions.h"
#include "server/rpc/grpc_status.h"

namespace nibble::sim {
namespace {

std::vector<scheduler::AttemptId> Ids(
    const google::protobuf::RepeatedPtrField<v1::AttemptKey>& keys) {
  std::vector<scheduler::AttemptId> ids;
  for (const v1::AttemptKey& key : keys) ids.push_back({key.job_id(), key.attempt()});
  return ids;
}

scheduler::EventBody EventOf(const ClientCall& call, World& world) {
  using Kind = ClientCall::Kind;
  switch (call.kind) {
    case Kind::kSubmit:
      return scheduler::JobSubmitted{MakeId("j-", world), call.document, "user", {}};
    case Kind::kCancel:
      return scheduler::CancelRequested{call.job_id, "user"};
    case Kind::kPause:
      return scheduler::PauseRequested{call.job_id, "user"};
    case Kind::kResume:
      return scheduler::ResumeRequested{call.job_id, "user"};
    case Kind::kUpdate:
      return scheduler::UpdateRequested{call.job_id, call.priority, {}, 0, "user"};
    case Kind::kDelete:
      return scheduler::DeleteRequested{call.job_id, "user"};
    case Kind::kDrain:
      return scheduler::DrainRequested{call.worker, "maintenance", call.evict, "user"};
    case Kind::kUndrain:
      break;
  }
  return scheduler::UndrainRequested{call.worker, "user"};
}

}  // namespace

class SimDaemon::SimTelemetry : public telemetry::NullTelemetry {
 public:
  SimTelemetry(World* world, const Checkers* checkers) : world_(world), checkers_(checkers) {}
  void SetCounts(const telemetry::ControlPlaneCounts& counts) override {
    for (const auto& checker : *checkers_) checker->Counts(counts);
  }
  void Alerted(absl::string_view kind) override { world_->Reached(absl::StrCat("alert: ", kind)); }

 private:
  World* const world_;
  const Checkers* const checkers_;
};

struct SimDaemon::Stream {
  std::string worker;
  std::shared_ptr<rpc::MessageSource<v1::AssignmentList>> source;
  std::function<bool(const v1::AssignmentList&)> on_list;
  std::function<void(absl::Status)> on_end;
};

SimDaemon::SimDaemon(Site* site, const Checkers* checkers) : site_(site), checkers_(checkers) {
  site_->daemon_started_at = site_->world->now();
  for (const auto& checker : *checkers_) checker->DaemonStarts();
  telemetry_ = std::make_unique<SimTelemetry>(site_->world, checkers_);
  pool_ = std::make_unique<coordinator::WorkPool>(/*threads=*/0, /*max_waiting=*/4096);
  coordinator::CoordinatorOptions options;
  options.scheduler = *site_->options;
  options.tick_nanos = kSeconds;
  coordinator::CoordinatorParts parts;
  parts.store = site_->store;
  parts.metric_store = site_->metrics;
  parts.telemetry = telemetry_.get();
  parts.clock = &site_->world->clock();
  parts.pool = pool_.get();
  parts.random = site_->world;
  parts.recipe_of = [](const scheduler::JobDocument&) { return std::string(); };
  parts.on_fatal = [this](const absl::Status&) { dead_ = true; };
  auto started = coordinator::Coordinator::StartWithoutThread(options, parts);
  if (!started.ok()) {  // its first commit may crash
    dead_ = true;
    return;
  }
  coordinator_ = *std::move(started);
  appender_ = std::make_unique<coordinator::RecordAppender>(coordinator_.get(), site_->metrics,
                                                            telemetry_.get(), pool_.get());
  rpc::ApiParts api;
  api.coordinator = coordinator_.get();
  api.appender = appender_.get();
  api.store = site_->store;
  api.metric_store = site_->metrics;
  api.pool = pool_.get();
  api.random = site_->world;
  api_ = std::make_unique<rpc::WorkerApi>(api);
  Wake(0);
}

SimDaemon::~SimDaemon() {
  life_.reset();
  // What waits in the pool holds streams, and streams are subscribed to the coordinator's feed.
  streams_.clear();
  api_.reset();
  appender_.reset();
  pool_.reset();
}

void SimDaemon::Wake(int64_t delay_nanos) {
  const int64_t at = std::max(site_->world->now() + delay_nanos, stalled_until_);
  if (at >= runs_at_) return;
  runs_at_ = at;
  site_->world->At(at - site_->world->now(), life_, [this, at] {
    if (at != runs_at_) return;  // an earlier run came in between
    Run();
  });
}

void SimDaemon::Run() {
  runs_at_ = INT64_MAX;
  if (dead_) return;
  if (site_->world->now() < stalled_until_) return Wake(0);
  for (int round = 0; round < 3 && !dead_; ++round) {
    coordinator_->RunPending();
    pool_->RunPending();
  }
  if (dead_) return;
  for (const auto& checker : *checkers_) checker->DaemonRests(*coordinator_);
  Wake(coordinator_->next_tick_nanos() - site_->world->now());
}

template <typename Request>
WorkerCall SimDaemon::NoteCall(const char* kind, const Request& request,
                               const std::vector<v1::AttemptKey>& keys) const {
  WorkerCall call;
  call.kind = kind;
  call.worker = request.worker_id();
  call.incarnation = request.incarnation();
  call.arrived_at = site_->world->now();
  for (const v1::AttemptKey& key : keys) {
    call.attempts.push_back({key.job_id(), key.attempt()});
    call.live.push_back(site_->rows.IsLive(call.attempts.back(), call.worker));
  }
  return call;
}

void SimDaemon::Accept(const WorkerCall& call, const std::vector<scheduler::AttemptId>& granted,
                       const std::vector<scheduler::AttemptId>& refused) {
  for (const auto& checker : *checkers_) checker->Accepted(call, granted, refused);
}

void SimDaemon::NoteRefusal(const absl::Status& status) {
  site_->world->Reached(absl::StrCat("refused: ", rpc::ReasonOf(status)));
}

void SimDaemon::Call(const v1::RegisterWorkerRequest& request,
                     rpc::Reply<v1::RegisterWorkerResponse> reply) {
  const WorkerCall call =
      NoteCall("register", request, {request.running().begin(), request.running().end()});
  api_->RegisterWorker(
      request, [this, call, reply](const absl::StatusOr<v1::RegisterWorkerResponse>& response) {
        if (dead_) return;
        if (!response.ok()) {
          NoteRefusal(response.status());
        } else {
          const std::vector<scheduler::AttemptId> adopted = Ids(response->adopted());
          site_->world->Trace(absl::StrCat(call.worker, " ", call.incarnation, " registers, ",
                                           adopted.size(), " adopted"));
          std::vector<scheduler::AttemptId> refused;
          for (const auto& attempt : call.attempts) {
            if (std::find(adopted.begin(), adopted.end(), attempt) == adopted.end()) {
              refused.push_back(attempt);
            }
          }
          Accept(call, adopted, refused);
        }
        reply(response);
      });
  Wake(site_->world->Between(0, 2'000'000));
}

void SimDaemon::Call(const v1::RenewLeasesRequest& request,
                     rpc::Reply<v1::RenewLeasesResponse> reply) {
  const WorkerCall call =
      NoteCall("renew", request, {request.attempts().begin(), request.attempts().end()});
  api_->RenewLeases(request,
                    [this, call, reply](const absl::StatusOr<v1::RenewLeasesResponse>& response) {
                      if (dead_) return;
                      if (response.ok()) {
                        Accept(call, Ids(response->renewed()), Ids(response->stale()));
                      } else {
                        NoteRefusal(response.status());
                      }
                      reply(response);
                    });
  Wake(site_->world->Between(0, 2'000'000));
}

void SimDaemon::Call(const v1::ReportAttemptRequest& request,
                     rpc::Reply<v1::ReportAttemptResponse> reply) {
  WorkerCall call = NoteCall("report", request, {request.key()});
  call.status = request.status();
  api_->ReportAttempt(
      request, [this, call, reply](const absl::StatusOr<v1::ReportAttemptResponse>& response) {
        if (dead_) return;
        if (response.ok()) {
          Accept(call, call.attempts, {});
        } else {
          NoteRefusal(response.status());
        }
        reply(response);
      });
  Wake(site_->world->Between(0, 2'000'000));
}

void SimDaemon::Call(const v1::CommitCheckpointRequest& request,
                     rpc::Reply<v1::CommitCheckpointResponse> reply) {
  v1::AttemptKey key;
  key.set_job_id(request.checkpoint().job_id());
  key.set_attempt(request.checkpoint().attempt());
  const WorkerCall call = NoteCall("commit", request, {key});
  api_->CommitCheckpoint(
      request, [this, call, reply](const absl::StatusOr<v1::CommitCheckpointResponse>& response) {
        if (dead_) return;
        if (response.ok()) {
          Accept(call, call.attempts, {});
        } else {
          NoteRefusal(response.status());
        }
        reply(response);
      });
  Wake(site_->world->Between(0, 2'000'000));
}

void SimDaemon::Call(const v1::AppendMetricsRequest& request,
                     rpc::Reply<v1::AppendMetricsResponse> reply) {
  const WorkerCall call = NoteCall("metrics", request, {request.key()});
  api_->AppendMetrics(
      request, [this, call, reply](const absl::StatusOr<v1::AppendMetricsResponse>& response) {
        if (dead_) return;
        if (response.ok()) {
          Accept(call, call.attempts, {});
        } else {
          NoteRefusal(response.status());
        }
        reply(response);
      });
  Wake(site_->world->Between(0, 2'000'000));
}

void SimDaemon::Call(const v1::AppendLogsRequest& request,
                     rpc::Reply<v1::AppendLogsResponse> reply) {
  api_->AppendLogs(request, [this, reply](const absl::StatusOr<v1::AppendLogsResponse>& response) {
    if (!dead_) reply(response);
  });
  Wake(site_->world->Between(0, 2'000'000));
}

void SimDaemon::Watch(const v1::WatchAssignmentsRequest& request,
                      std::function<bool(const v1::AssignmentList&)> on_list,
                      std::function<void(absl::Status)> on_end) {
  auto source = api_->WatchAssignments(request);
  if (!source.ok()) return on_end(source.status());
  auto stream = std::make_shared<Stream>();
  stream->worker = request.worker_id();
  stream->source = *std::move(source);
  stream->on_list = std::move(on_list);
  stream->on_end = std::move(on_end);
  streams_.push_back(stream);
  PullNext(stream);
  Wake(site_->world->Between(0, 1'000'000));
}

void SimDaemon::PullNext(const std::shared_ptr<Stream>& stream) {
  stream->source->Next([this, weak = std::weak_ptr<Stream>(stream)](
                           absl::StatusOr<std::optional<v1::AssignmentList>> list) {
    const std::shared_ptr<Stream> self = weak.lock();
    if (self == nullptr || dead_) return;
    bool stands = false;
    if (list.ok() && list->has_value()) {
      for (const auto& checker : *checkers_) checker->Listed(self->worker, **list);
      stands = self->on_list(**list);
      if (stands) return PullNext(self);
    }
    if (!list.ok()) NoteRefusal(list.status());
    self->on_end(list.ok() ? absl::UnavailableError("the stream broke") : list.status());
    streams_.erase(std::find(streams_.begin(), streams_.end(), self));
  });
}

void SimDaemon::Post(const ClientCall& call, coordinator::OutcomeCallback callback) {
  coordinator_->Post(EventOf(call, *site_->world),
                     [this, callback = std::move(callback)](const coordinator::Outcome& outcome) {
                       if (!dead_) callback(outcome);
                     });
  Wake(site_->world->Between(0, 2'000'000));
}

}  // namespace nibble::sim
