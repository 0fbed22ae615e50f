#include <map>
#include <set>
#include <string>

#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

using Kind = ClientCall::Kind;
using scheduler::JobReason;
using scheduler::JobRecord;
using scheduler::JobState;

class ClientChecker : public Checker {
 public:
  using Checker::Checker;

  void ClientSent(const ClientCall& call) override {
    Asked& asked = jobs_[call.job_id];
    switch (call.kind) {
      case Kind::kCancel:
        asked.cancel_sent = true;
        break;
      case Kind::kPause:
        asked.pause_sent = true;
        break;
      case Kind::kResume:
        asked.held = false;
        break;
      case Kind::kDelete:
        asked.delete_sent = true;
        break;
      case Kind::kUpdate:
        asked.priorities.insert(call.priority);
        break;
      case Kind::kUndrain:
        drained_.erase(call.worker);
        break;
      default:
        break;
    }
    // An undrain that is under way may come into force at any time.
    if (call.kind == Kind::kUndrain) undrain_sent_[call.worker] = now();
    if (call.kind == Kind::kResume) asked.resume_sent = now();
  }

  void ClientAnswered(const ClientCall& call, const coordinator::Outcome& outcome) override {
    const scheduler::Error& error = outcome.reply.error;
    if (!error.ok()) {
      site_.world->Reached(absl::StrCat("client: ", scheduler::ErrorReasonName(error.reason)));
    }
    if (call.kind == Kind::kSubmit) return Submitted(call, outcome.reply);
    if (!error.ok()) return;
    if (call.kind == Kind::kDrain) {
      // Late answers say nothing of now: only what no undrain has followed counts.
      if (undrain_sent_.count(call.worker) == 0) drained_.insert(call.worker);
      return;
    }
    if (call.kind == Kind::kDelete) deleted_.insert(call.job_id);
    const auto* job = std::get_if<JobRecord>(&outcome.reply.answer);
    Asked& asked = jobs_[call.job_id];
    if (call.kind == Kind::kCancel && job != nullptr) asked.cancelled = true;
    if (call.kind == Kind::kPause && asked.resume_sent == 0) asked.held = true;
    if (call.kind == Kind::kUpdate && job != nullptr && asked.priorities.size() == 1 &&
        job->document->priority != call.priority) {
      Fail(absl::StrCat(call.job_id, ": an update was acknowledged and not made"));
    }
  }

  void Committed(const scheduler::Transaction& t) override {
    for (const auto& event : t.events) {
      if (event.before == event.after) continue;
      Asked& asked = jobs_[event.job_id];
      if (event.after == JobState::kCancelled && !asked.cancel_sent) {
        Fail(absl::StrCat(event.job_id, ": cancelled, and nobody asked for it"));
      }
      if (event.after == JobState::kPaused && !asked.pause_sent &&
          event.reason == JobReason::kPauseRequested) {
        Fail(absl::StrCat(event.job_id, ": paused, and nobody asked for it"));
      }
      if (event.after != JobState::kStarting) continue;
      if (asked.held) Fail(absl::StrCat(event.job_id, ": was paused, and starts by itself"));
      if (asked.cancelled) Fail(absl::StrCat(event.job_id, ": was cancelled, and starts"));
      const JobRecord* const job = site_.rows.Find(event.job_id);
      if (job == nullptr || job->attempt != event.attempt) continue;
      for (const auto& share : job->placement) {
        if (drained_.count(share.worker_id) != 0) {
          Fail(absl::StrCat(event.job_id, ": starts on ", share.worker_id, ", which is drained"));
        }
      }
    }
    for (const std::string& job_id : t.deleted_jobs) {
      if (!jobs_[job_id].delete_sent) Fail(absl::StrCat(job_id, ": deleted without request"));
    }
  }

  void DaemonStarts() override { CheckPromises(); }

  void Finished() override {
    CheckPromises();
    for (const auto& [job_id, asked] : jobs_) {
      const JobRecord* const job = site_.rows.Find(job_id);
      if (asked.cancelled && job != nullptr && job->state != JobState::kCancelled) {
        Fail(absl::StrCat(job_id, ": its cancellation was acknowledged, and it ended as ",
                          scheduler::JobStateName(job->state)));
      }
    }
    for (const std::string& job_id : deleted_) {
      if (site_.store->GetJob(job_id).ok()) Fail(absl::StrCat(job_id, ": deleted and there"));
      store::MetricQuery query;
      query.job_id = job_id;
      const auto metrics = site_.metrics->Read(query);
      if (metrics.ok() && !metrics->rows.empty()) {
        Fail(absl::StrCat(job_id, ": deleted, and its metrics are there"));
      }
      for (const std::string& worker : ran_on_[job_id]) {
        bool due = false;  // of a worker that never came back
        for (const auto& purge : site_.rows.purges) {
          due = due || (purge.job_id == job_id && purge.worker_id == worker);
        }
        if (!due && site_.disk->HasJob(worker, job_id)) {
          Fail(absl::StrCat(job_id, ": deleted, and its files are on ", worker));
        }
      }
    }
  }

  void TrainerLaunched(const TrainerView& trainer) override {
    ran_on_[trainer.attempt.job_id].insert(trainer.worker);
  }

 private:
  struct Asked {
    bool cancel_sent = false;
    bool cancelled = false;  // acknowledged
    bool pause_sent = false;
    bool held = false;  // paused, acknowledged, and no resume sent since
    bool delete_sent = false;
    int64_t resume_sent = 0;
    std::set<int32_t> priorities;
  };

  void Submitted(const ClientCall& call, const scheduler::Reply& reply) {
    const std::string& key = call.document->request_key;
    if (!reply.error.ok()) {
      // Of a job that was deleted meanwhile nothing is promised.
      if (reply.error.reason == scheduler::ErrorReason::kRequestIdReused &&
          first_body_.count(key) != 0 && first_body_[key] == call.document->fingerprint) {
        Fail(absl::StrCat("key ", key, " was refused to its own body"));
      }
      return;
    }
    const auto* job = std::get_if<JobRecord>(&reply.answer);
    if (job == nullptr) return Fail("a submission was answered with no job");
    if (job->document->fingerprint != call.document->fingerprint) {
      Fail(absl::StrCat("key ", key, " was answered with the job of another body"));
    }
    first_body_[key] = call.document->fingerprint;
    const auto [known, fresh] = acknowledged_.emplace(key, job->job_id);
    if (!fresh && known->second != job->job_id && !jobs_[known->second].delete_sent) {
      Fail(absl::StrCat("key ", key, " was answered with two jobs"));
    }
    if (!fresh) site_.world->Reached("client: the same job again");
  }

  // An acknowledged job exists for ever.
  void CheckPromises() {
    for (const auto& [key, job_id] : acknowledged_) {
      if (jobs_[job_id].delete_sent) continue;
      if (!site_.store->GetJob(job_id).ok()) {
        return Fail(absl::StrCat("acknowledged job ", job_id, " does not exist"));
      }
    }
  }

  std::map<std::string, Asked> jobs_;
  std::map<std::string, std::string> acknowledged_;  // job, by key
  std::map<std::string, std::string> first_body_;    // fingerprint, by key
  std::set<std::string> deleted_;
  std::set<std::string> drained_;
  std::map<std::string, int64_t> undrain_sent_;
  std::map<std::string, std::set<std::string>> ran_on_;
};

}  // namespace

std::unique_ptr<Checker> MakeClientChecker(Site* site) {
  return std::make_unique<ClientChecker>(site);
}

}  // namespace nibble::sim
