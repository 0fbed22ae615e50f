#include "server/scheduler/test_world.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/scheduler/invariants.h"

namespace nibble::scheduler {
namespace {

std::string Text(const JobRecord& j) {
  std::string placement;
  for (const WorkerShare& share : j.placement) {
    absl::StrAppend(&placement, share.worker_id, "/", share.incarnation, "*", share.slots, " ");
  }
  return absl::StrCat("job ", j.job_id, " ", JobStateName(j.state), " ", JobReasonName(j.reason),
                      " '", j.reason_message, "' attempt ", j.attempt, " on ", placement,
                      "failures ", j.failures, ",", j.failures_without_progress, ",",
                      j.losses_without_progress, " step ", j.committed_step, " revision ",
                      j.revision, " at ", j.update_micros, "; ");
}

std::string Text(const CheckpointRecord& c) {
  return absl::StrCat("checkpoint ", c.job_id, "/", c.attempt, " ", c.step, " ", c.manifest_digest,
                      "; ");
}

std::string Text(const AttemptId& a) { return absl::StrCat(a.job_id, "/", a.attempt, "; "); }

std::string Text(const PurgeRecord& p) {
  return absl::StrCat("purge ", p.job_id, " on ", p.worker_id, "; ");
}

std::string Text(const JobEventRecord& e) {
  return absl::StrCat("event ", e.event_id, " ", e.job_id, " ", JobStateName(e.before), "->",
                      JobStateName(e.after), " by ", e.actor, " for ", e.cause, "; ");
}

std::string Text(const IdempotencyRecord& k) {
  return absl::StrCat("key ", k.key, "=", k.job_id, "; ");
}

std::string Text(const std::string& s) { return absl::StrCat(s, "; "); }

template <typename T>
std::string Texts(const char* what, const std::vector<T>& all) {
  std::string text = what;
  for (const T& one : all) absl::StrAppend(&text, Text(one));
  return text;
}

struct EffectText {
  std::string operator()(const Transaction& t) const {
    return absl::StrCat("PERSIST ", Texts("", t.jobs), Texts("", t.events),
                        Texts("", t.checkpoints), Texts("removed ", t.removed_checkpoints),
                        Texts("", t.keys), Texts("deleted ", t.deleted_jobs), Texts("", t.purges),
                        Texts("done ", t.finished_purges));
  }
  std::string operator()(const AssignmentsChanged& a) const {
    std::string text = absl::StrCat("ASSIGN ", a.worker_id, ": ");
    for (const Assignment& one : a.assignments) {
      absl::StrAppend(&text, static_cast<int>(one.action), " ", Text(one.attempt),
                      one.resume_from.has_value() ? Text(*one.resume_from) : "");
    }
    return absl::StrCat(text, Texts("purge ", a.purge_job_ids));
  }
  std::string operator()(const JobChanged& c) const {
    return absl::StrCat("CHANGED ", c.deleted ? "deleted " : "", Text(c.job));
  }
  std::string operator()(const PurgeMetrics& p) const { return absl::StrCat("PURGE ", p.job_id); }
  std::string operator()(const Alert& a) const { return absl::StrCat("ALERT ", a.message); }
  std::string operator()(const Reply& r) const {
    std::string text = absl::StrCat("REPLY ", r.request_token, " ", ErrorReasonName(r.error.reason),
                                    " ", r.error.message, " ");
    if (const auto* job = std::get_if<JobRecord>(&r.answer)) absl::StrAppend(&text, Text(*job));
    if (const auto* a = std::get_if<Registration>(&r.answer)) {
      absl::StrAppend(&text, Texts("adopted ", a->adopted));
    }
    if (const auto* a = std::get_if<Renewal>(&r.answer)) {
      absl::StrAppend(&text, Texts("renewed ", a->renewed), Texts("stale ", a->stale));
    }
    if (const auto* a = std::get_if<CheckpointAnswer>(&r.answer)) {
      absl::StrAppend(&text, Texts("retained ", a->retained));
    }
    return text;
  }
};

}  // namespace

void Ledger::Apply(const Transaction& t) {
  for (const JobRecord& job : t.jobs) {
    jobs[job.job_id] = job;
    last_submit_sequence = std::max(last_submit_sequence, job.submit_sequence);
  }
  for (const JobEventRecord& event : t.events) {
    events.push_back(event);
    last_event_id = std::max(last_event_id, event.event_id);
  }
  for (const CheckpointRecord& c : t.checkpoints) checkpoints[c.job_id][c.step] = c;
  for (const CheckpointRecord& c : t.removed_checkpoints) checkpoints[c.job_id].erase(c.step);
  for (const IdempotencyRecord& key : t.keys) keys[key.key] = key;
  for (const std::string& job_id : t.deleted_jobs) {
    keys.erase(jobs.at(job_id).document->request_key);
    jobs.erase(job_id);
    checkpoints.erase(job_id);
  }
  for (const WorkerRecord& worker : t.workers) workers[worker.worker_id] = worker;
  for (const std::string& worker_id : t.removed_workers) workers.erase(worker_id);
  for (const ProjectUsage& usage : t.usages) usages[usage.project] = usage;
  for (const PurgeRecord& purge : t.purges) purges[purge] = true;
  for (const PurgeRecord& purge : t.finished_purges) purges.erase(purge);
}

Recovered Ledger::Recover() const {
  Recovered recovered;
  for (const auto& [job_id, job] : jobs) {
    if (IsTerminal(job.state)) continue;
    Recovered::Job row{job, {}};
    const auto found = checkpoints.find(job_id);
    if (found != checkpoints.end()) {
      for (const auto& [step, checkpoint] : found->second) row.checkpoints.push_back(checkpoint);
    }
    recovered.jobs.push_back(std::move(row));
  }
  for (const auto& [purge, pending] : purges) recovered.purges.push_back(purge);
  for (const auto& [worker_id, worker] : workers) recovered.workers.push_back(worker);
  for (const auto& [project, usage] : usages) recovered.usages.push_back(usage);
  recovered.last_event_id = last_event_id;
  recovered.last_submit_sequence = last_submit_sequence;
  return recovered;
}

std::string DebugString(const std::vector<Effect>& effects) {
  std::string text;
  for (const Effect& effect : effects) {
    absl::StrAppend(&text, std::visit(EffectText(), effect), "\n");
  }
  return text;
}

World::World(SchedulerOptions options, bool checked)
    : options_(std::move(options)),
      checked_(checked),
      checker_(std::make_unique<InvariantChecker>()) {
  Restart();
}

World::~World() = default;

void World::Restart() {
  events_.clear();
  effect_texts_.clear();
  lists_.clear();
  scheduler_ = std::make_unique<Scheduler>(options_);
  Step(ledger_.Recover());
}

Reply World::Step(EventBody body) {
  Event event;
  event.now = now_;
  event.request_token = next_token_++;
  event.random = random_;
  event.body = std::move(body);
  if (auto* submitted = std::get_if<JobSubmitted>(&event.body)) {
    const auto key = ledger_.keys.find(submitted->document->request_key);
    if (key != ledger_.keys.end()) submitted->stored_key = key->second;
  }
  const std::string named(JobIdOf(event.body));
  const auto stored = ledger_.jobs.find(named);
  if (scheduler_->FindJob(named) == nullptr && stored != ledger_.jobs.end()) {
    event.stored_job = std::make_shared<const JobRecord>(stored->second);
  }
  effects_ = scheduler_->Step(event);
  if (checked_) {
    events_.push_back(event);
    effect_texts_.push_back(DebugString(effects_));
  }
  Reply reply;
  for (const Effect& effect : effects_) {
    if (const auto* t = std::get_if<Transaction>(&effect)) ledger_.Apply(*t);
    if (const auto* a = std::get_if<AssignmentsChanged>(&effect)) lists_[a->worker_id] = *a;
    if (const auto* alert = std::get_if<Alert>(&effect)) alerts_.push_back(*alert);
    if (const auto* r = std::get_if<Reply>(&effect)) reply = *r;
  }
  if (checked_) checker_->Check(event, effects_, *scheduler_, ledger_, lists_);
  return reply;
}

void World::Advance(int64_t nanos) {
  while (nanos > 0) {
    const int64_t part = std::min<int64_t>(nanos, 1'000'000'000);
    now_.monotonic_nanos += part;
    now_.wall_micros += part / 1000;
    nanos -= part;
    Step(Tick{});
  }
}

std::string World::Submit(JobDocument document) {
  const std::string job_id = absl::StrCat("j-", absl::Hex(next_job_++, absl::kZeroPad16));
  if (document.total_steps == 0) document.total_steps = 1000;
  Step(JobSubmitted{job_id, std::make_shared<const JobDocument>(std::move(document)), "user", {}});
  return job_id;
}

Reply World::Register(const std::string& worker, int32_t slots, const std::string& incarnation,
                      std::vector<AttemptId> running) {
  return Step(WorkerRegistered{worker, incarnation, "host", "cpu", "a processor", slots, "1",
                               std::move(running)});
}

Reply World::Renew(const std::string& worker, std::vector<AttemptId> attempts,
                   const std::string& incarnation) {
  return Step(LeasesRenewed{worker, incarnation, std::move(attempts), {}});
}

Reply World::Report(const std::string& worker, AttemptId attempt, AttemptStatus status,
                    FailureClass failure_class, const std::string& incarnation) {
  AttemptReported report{worker,  incarnation, std::move(attempt), status, failure_class,
                         "words", {}};
  if (status == AttemptStatus::kSucceeded) report.result = TrainingResult{};
  return Step(std::move(report));
}

Reply World::Commit(const std::string& worker, AttemptId attempt, int64_t step) {
  CheckpointRecord checkpoint;
  checkpoint.job_id = attempt.job_id;
  checkpoint.attempt = attempt.attempt;
  checkpoint.step = step;
  checkpoint.manifest_digest = absl::StrCat("digest ", step);
  return Step(CheckpointCommitted{worker, "i1", std::move(checkpoint)});
}

const std::vector<std::string>& World::violations() const { return checker_->violations(); }

}  // namespace nibble::scheduler
