#include "worker/agent/agent.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/planted.h"

namespace nibble::agent {
namespace {

constexpr int64_t kNanosPerMs = 1'000'000;
constexpr int64_t kDefaultLeaseMs = 15'000;
// With attempts about, a tick every second at least: cheap, and no forgotten wake-up matters.
constexpr int64_t kMaxTickNanos = 1'000'000'000;
constexpr char kStaleIncarnationReason[] = "STALE_INCARNATION";

}  // namespace

Agent::Agent(AgentOptions options, AttemptContext context)
    : options_(std::move(options)), context_(std::move(context)) {
  context_.on_daemon_lost = [this](const absl::Status& status) { DaemonLost(status); };
  last_contact_ = Now();
}

void Agent::Tick() {
  if (done_) return;
  ConnectIfDue();
  Reconcile();
  const bool connected = session_ == Session::kRegistered;
  // By key: a callback of the link may answer at once, and must not disturb the iteration.
  for (const auto& [key, attempt] : attempts_) attempt->Pump(connected);
  CollectEnded();
  RenewIfDue();
  EnforceLimits();
}

int64_t Agent::NextTick() const {
  const int64_t now = Now();
  int64_t next = now + 60 * kMaxTickNanos;
  if (!attempts_.empty() || shutting_down_) next = now + kMaxTickNanos;
  if (session_ == Session::kNone) next = std::min(next, connect_backoff_.ready_at());
  if (session_ == Session::kRegistered && !renewing_) next = std::min(next, next_renewal_);
  for (const auto& [key, attempt] : attempts_) next = std::min(next, attempt->NextPump());
  return next;
}

void Agent::ConnectIfDue() {
  if (session_ != Session::kNone || !result_.ok() || !connect_backoff_.Ready(Now())) return;
  session_ = Session::kRegistering;
  const int64_t number = ++session_number_;
  v1::RegisterWorkerRequest request;
  request.set_worker_id(context_.worker_id);
  request.set_incarnation(context_.incarnation);
  request.set_host(options_.host);
  request.set_device_kind(options_.device_kind);
  request.set_device_name(options_.device_name);
  request.set_slots(options_.slots);
  request.set_version(options_.version);
  request.set_slot_memory_bytes(options_.slot_memory_bytes);
  for (const auto& [key, value] : options_.labels) (*request.mutable_labels())[key] = value;
  std::vector<Key> running;
  for (const auto& [key, attempt] : attempts_) {
    if (attempt->abandoned()) continue;
    *request.add_running() = attempt->key();
    running.push_back(key);
  }
  context_.link->Register(request, [this, loop = context_.loop, number, running, sent_at = Now()](
                                       absl::StatusOr<v1::RegisterWorkerResponse> response) {
    loop->Post([this, number, running, sent_at, response = std::move(response)] {
      if (number != session_number_ || session_ != Session::kRegistering) return;
      if (response.ok()) {
        Registered(sent_at, running, *response);
      } else {
        DaemonLost(response.status());
      }
    });
  });
}

int64_t Agent::LeaseNanos(int64_t lease_term_ms) const {
  if (lease_term_ms <= 0) lease_term_ms = kDefaultLeaseMs;
  return std::clamp(lease_term_ms, kMinLeaseMs, kMaxLeaseMs) * kNanosPerMs;
}

void Agent::Registered(int64_t sent_at, const std::vector<Key>& running,
                       const v1::RegisterWorkerResponse& response) {
  NIBBLE_LOG(kInfo, absl::StrCat("registered as ", context_.worker_id, "; ", running.size(),
                                 " attempts running, ", response.adopted_size(), " adopted"));
  session_ = Session::kRegistered;
  last_loss_.clear();
  last_contact_ = Now();
  lease_nanos_ = LeaseNanos(response.lease_term_ms());
  next_renewal_ = Now() + lease_nanos_ / 3;
  std::set<Key> adopted;
  for (const v1::AttemptKey& key : response.adopted()) adopted.insert(KeyOf(key));
  for (const Key& key : running) {
    const auto found = attempts_.find(key);
    if (found == attempts_.end()) continue;
    if (!adopted.contains(key)) {
      found->second->Abandon("the daemon did not adopt it");
      continue;
    }
    // From when the request left: the daemon's own count starts later.
    found->second->GrantLease(sent_at + lease_nanos_);
    found->second->Adopted();
  }
  desired_.reset();
  v1::WatchAssignmentsRequest request;
  request.set_worker_id(context_.worker_id);
  request.set_incarnation(context_.incarnation);
  const int64_t number = session_number_;
  context_.link->WatchAssignments(
      request,
      [this, loop = context_.loop, number](v1::AssignmentList list) {
        loop->Post([this, number, list = std::move(list)]() mutable {
          if (number == session_number_) ListReceived(std::move(list));
        });
      },
      [this, loop = context_.loop, number](absl::Status status) {
        loop->Post([this, number, status = std::move(status)] {
          if (number == session_number_) DaemonLost(status);
        });
      });
}

void Agent::ListReceived(v1::AssignmentList list) {
  last_contact_ = Now();
  // Only now: a daemon that registers workers and then drops them is not to be hammered.
  connect_backoff_.Succeeded();
  const bool shut_down = list.shut_down();
  purge_tried_.clear();
  desired_ = std::move(list);
  if (shut_down && !shutting_down_) {
    NIBBLE_LOG(kInfo, "the daemon shuts down, and this worker with it");
    ShutDown();
  }
}

void Agent::DaemonLost(const absl::Status& status) {
  if (session_ == Session::kNone || done_) return;
  if (ReasonOf(status) == kStaleIncarnationReason) {
    EndBecauseReplaced(status);
    return;
  }
  session_ = Session::kNone;
  ++session_number_;  // the watch and the calls of the old session have nothing more to say
  desired_.reset();
  renewing_ = false;
  context_.link->StopWatching();
  connect_backoff_.Failed(Now(), *context_.random);
  // Once for each cause: the attempts to connect go on for as long as it takes.
  if (last_loss_ != status.message()) {
    last_loss_ = std::string(status.message());
    NIBBLE_LOG(kWarning, absl::StrCat("no connection to the daemon: ", status.ToString()));
  }
}

void Agent::EndBecauseReplaced(const absl::Status& status) {
  result_ = absl::AbortedError(absl::StrCat("another process has registered as worker ",
                                            context_.worker_id, ": ", status.message()));
  for (const auto& [key, attempt] : attempts_) attempt->Abandon("the worker was replaced");
  context_.link->StopWatching();
  session_ = Session::kNone;
  ++session_number_;
  desired_.reset();
  shutting_down_ = true;
  shutdown_at_ = Now();
}

void Agent::RenewIfDue() {
  if (session_ != Session::kRegistered || renewing_ || Now() < next_renewal_) return;
  renewing_ = true;
  next_renewal_ = Now() + lease_nanos_ / 3;
  v1::RenewLeasesRequest request;
  request.set_worker_id(context_.worker_id);
  request.set_incarnation(context_.incarnation);
  for (const auto& [key, attempt] : attempts_) {
    if (!attempt->abandoned()) *request.add_attempts() = attempt->key();
  }
  // And those that wait for room.
  if (desired_.has_value()) {
    for (const v1::Assignment& assignment : desired_->assignments()) {
      const Key key = KeyOf(assignment.key());
      if (attempts_.contains(key) || finished_.contains(key) || !IsValid(assignment)) continue;
      *request.add_attempts() = assignment.key();
    }
  }
  for (const std::string& job_id : purged_) request.add_purged_job_ids(job_id);
  const int64_t number = session_number_;
  context_.link->RenewLeases(
      request, [this, loop = context_.loop, number, request,
                sent_at = Now()](absl::StatusOr<v1::RenewLeasesResponse> response) {
        loop->Post([this, number, request, sent_at, response = std::move(response)] {
          if (number != session_number_) return;
          renewing_ = false;
          Renewed(sent_at, request, response);
        });
      });
}

void Agent::Renewed(int64_t sent_at, const v1::RenewLeasesRequest& request,
                    const absl::StatusOr<v1::RenewLeasesResponse>& response) {
  if (!response.ok()) {
    DaemonLost(response.status());
    return;
  }
  last_contact_ = Now();
  lease_nanos_ = LeaseNanos(response->lease_term_ms());
  for (const v1::AttemptKey& key : response->renewed()) {
    const auto found = attempts_.find(KeyOf(key));
    if (found != attempts_.end()) found->second->GrantLease(sent_at + lease_nanos_);
  }
  for (const v1::AttemptKey& key : response->stale()) {
    const auto found = attempts_.find(KeyOf(key));
    if (found != attempts_.end()) found->second->Abandon("its lease was not renewed");
  }
  for (const std::string& job_id : request.purged_job_ids()) purged_.erase(job_id);
}

bool Agent::IsValid(const v1::Assignment& assignment) {
  return WorkDirectory::IsId(assignment.key().job_id()) && assignment.key().attempt() >= 1;
}

void Agent::Reconcile() {
  if (!desired_.has_value()) return;
  std::set<Key> listed;
  for (const v1::Assignment& assignment : desired_->assignments()) {
    if (!IsValid(assignment)) {
      NIBBLE_LOG(kError, "ignoring an assignment whose job id or attempt is not valid");
      continue;
    }
    const Key key = KeyOf(assignment.key());
    listed.insert(key);
    const auto found = attempts_.find(key);
    if (found != attempts_.end()) {
      found->second->SetAction(assignment.action());
    } else if (finished_.contains(key)) {
      ReportAgain(key);
    } else {
      Begin(assignment);
    }
  }
  for (const auto& [key, attempt] : attempts_) {
    // One whose end is being reported goes from the list before the answer comes.
    if (!listed.contains(key) && !attempt->reporting_end()) {
      attempt->Abandon("the daemon does not list it");
    }
  }
  Purge();
}

void Agent::Begin(const v1::Assignment& assignment) {
  const v1::AttemptKey& key = assignment.key();
  // In a shutdown it is given back at once, upon which the daemon assigns nothing for a while.
  const bool run = assignment.action() == v1::Assignment::RUN && !shutting_down_;
  if (run && !HasRoom(assignment)) return;  // until an old trainer is dead
  auto attempt = std::make_shared<Attempt>(context_, assignment);
  // An earlier incarnation of this worker ran it: running it again would mix two streams of
  // metrics under one epoch. Given back, it becomes a new attempt.
  const bool ran_before = context_.directory->HasAttempt(key.job_id(), key.attempt());
  if (run && !ran_before) attempt->Start();
  attempts_.emplace(KeyOf(key), std::move(attempt));
  // A lease of its own, before the first thing to publish.
  next_renewal_ = Now();
}

bool Agent::HasRoom(const v1::Assignment& assignment) const {
  int64_t used = assignment.spec().resources().slots();
  for (const auto& [key, attempt] : attempts_) {
    if (!attempt->alive()) continue;
    if (key.first == assignment.key().job_id()) return false;  // its older self still writes
    used += attempt->slots();
  }
  return used <= options_.slots;
}

void Agent::CollectEnded() {
  for (auto it = attempts_.begin(); it != attempts_.end();) {
    const Attempt& attempt = *it->second;
    if (!attempt.over()) {
      ++it;
      continue;
    }
    Finished finished;
    finished.session_number = session_number_;
    if (!attempt.abandoned()) finished.report = attempt.end_report();
    finished_[it->first] = std::move(finished);
    finished_order_.push_back(it->first);
    it = attempts_.erase(it);
  }
  while (finished_order_.size() > kMaxFinished) {
    finished_.erase(finished_order_.front());
    finished_order_.pop_front();
  }
}

void Agent::ReportAgain(const Key& key) {
  // A list of a later session that still names it comes from a daemon that lost the report; one of
  // the same session may just be late.
  Finished& finished = finished_[key];
  if (!finished.report.has_value() || finished.session_number == session_number_) return;
  finished.session_number = session_number_;
  NIBBLE_LOG(kWarning, absl::StrCat("job ", key.first, " attempt ", key.second,
                                    ": the daemon still lists it; reporting its end again"));
  context_.link->ReportAttempt(*finished.report, [](absl::StatusOr<v1::ReportAttemptResponse>) {});
}

void Agent::Purge() {
  for (const std::string& job_id : desired_->purge_job_ids()) {
    if (!WorkDirectory::IsId(job_id) || purge_tried_.contains(job_id)) continue;
    const bool alive = std::any_of(attempts_.begin(), attempts_.end(),
                                   [&](const auto& a) { return a.first.first == job_id; });
    if (alive) continue;  // it is being killed; the list stays
    purge_tried_.insert(job_id);
    context_.tasks->Run([this, job_id, loop = context_.loop, directory = context_.directory] {
      const absl::Status status = directory->RemoveJob(job_id);
      loop->Post([this, job_id, status] {
        if (!status.ok()) {
          NIBBLE_LOG(kWarning, status.ToString());
          return;
        }
        purged_.insert(job_id);
        next_renewal_ = Now();
      });
    });
  }
}

bool Agent::AnyAlive() const {
  return std::any_of(attempts_.begin(), attempts_.end(),
                     [](const auto& a) { return a.second->alive(); });
}

void Agent::ShutDown() {
  if (shutting_down_) {
    NIBBLE_LOG(kWarning, "killing all trainers");
    for (const auto& [key, attempt] : attempts_) attempt->Kill();
    return;
  }
  shutting_down_ = true;
  shutdown_at_ = Now();
  for (const auto& [key, attempt] : attempts_) attempt->Release();
}

void Agent::EnforceLimits() {
  if (shutting_down_) {
    const int64_t elapsed = Now() - shutdown_at_;
    if (elapsed >= options_.shutdown_nanos && !shutdown_killed_) {
      shutdown_killed_ = true;
      if (AnyAlive()) NIBBLE_LOG(kWarning, "trainers did not end in time; killing them");
      for (const auto& [key, attempt] : attempts_) attempt->Kill();
    }
    // Dead trainers whose end the daemon does not hear of are found lost by their leases.
    const bool patient = elapsed < options_.shutdown_nanos + kShutdownGraceNanos;
    if (attempts_.empty() || (!patient && !AnyAlive())) {
      context_.link->StopWatching();
      done_ = true;
    }
    return;
  }
  if (Now() - last_contact_ < options_.orphan_limit_nanos || NIBBLE_PLANTED("orphans_live_on")) {
    return;
  }
  for (const auto& [key, attempt] : attempts_) {
    attempt->Abandon("no daemon for longer than the orphan limit");
  }
}

}  // namespace nibble::agent
