#include "tests/sim/clients.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble::sim {
namespace {

using Kind = ClientCall::Kind;

constexpr char kMachine[] = "client";
constexpr int64_t kDeadline = 5 * kSeconds;

}  // namespace

Clients::Clients(Site* site, Plans* plans, const Checkers* checkers, Network* network,
                 FindDaemon daemon, int workers)
    : site_(site),
      world_(site->world),
      plans_(plans),
      checkers_(checkers),
      network_(network),
      daemon_(std::move(daemon)),
      workers_(workers) {}

std::shared_ptr<scheduler::JobDocument> Clients::NewDocument() {
  World& w = *world_;
  Plan plan;
  plan.seed = w.Next();
  plan.steps = w.Between(1, 30);
  plan.checkpoint_interval = w.Between(1, 8);
  plan.step_nanos = w.Between(200, 2500) * kMillis;
  plan.deaf = w.Chance(60);
  if (w.Chance(150)) {
    using scheduler::FailureClass;
    plan.fails_at = w.Between(1, plan.steps);
    plan.failure = std::array{FailureClass::kNumeric, FailureClass::kUser,
                              FailureClass::kData,    FailureClass::kOutOfMemory,
                              FailureClass::kControl, FailureClass::kHardware}[w.Below(6)];
  }
  auto document = std::make_shared<scheduler::JobDocument>();
  document->name = absl::StrCat("job-", next_name_++);
  document->priority = static_cast<int32_t>(w.Between(-2, 2));
  document->slots = static_cast<int32_t>(w.Between(1, site_->slots_of_worker));
  document->max_failures = static_cast<int32_t>(w.Between(0, 3));
  document->keep_checkpoints = static_cast<int32_t>(w.Between(1, 3));
  document->total_steps = plan.steps;
  document->request_key = absl::StrCat("key-", document->name);
  document->fingerprint = document->name;
  document->project = std::array{"owner", "guest", "default"}[w.Below(3)];
  document->preemptible = w.Chance(800);
  if (w.Chance(200)) document->max_run_nanos = w.Between(20, 90) * kSeconds;
  v1::JobSpec spec;
  spec.set_name(document->name);
  spec.mutable_resources()->set_slots(document->slots);
  document->spec = spec.SerializeAsString();
  (*plans_)[document->name] = plan;
  return document;
}

void Clients::Submit() {
  ClientCall call;
  if (!submitted_.empty() && world_->Chance(150)) {
    // The answer was forgotten, or the key is used for something else.
    const auto& old = submitted_[world_->Below(static_cast<int64_t>(submitted_.size()))];
    auto document = std::make_shared<scheduler::JobDocument>(*old);
    if (world_->Chance(400)) document->fingerprint += "-other";
    call.document = std::move(document);
    world_->Reached("client: key used again");
  } else {
    call.document = NewDocument();
    submitted_.push_back(call.document);
  }
  Issue(std::move(call));
}

void Clients::SubmitPlain(int32_t slots) {
  std::shared_ptr<scheduler::JobDocument> document = NewDocument();
  document->slots = slots;
  document->priority = 0;
  document->project = scheduler::kDefaultProject;
  document->max_run_nanos = 0;
  v1::JobSpec spec;
  spec.set_name(document->name);
  spec.mutable_resources()->set_slots(slots);
  document->spec = spec.SerializeAsString();
  Plan& plan = (*plans_)[document->name];
  plan.steps = document->total_steps = world_->Between(5, 10);
  plan.step_nanos = world_->Between(500, 1500) * kMillis;
  plan.fails_at = 0;
  plan.deaf = false;
  ClientCall call;
  call.document = std::move(document);
  Issue(std::move(call));
}

std::string Clients::AnyJob() {
  if (site_->rows.jobs.empty()) return "";
  auto it = site_->rows.jobs.begin();
  std::advance(it, world_->Below(static_cast<int64_t>(site_->rows.jobs.size())));
  return it->first;
}

void Clients::Act() {
  ClientCall call;
  call.job_id = AnyJob();
  if (call.job_id.empty()) return;
  const int64_t dice = world_->Below(100);
  if (dice < 15) {
    call.kind = Kind::kCancel;
  } else if (dice < 40) {
    call.kind = Kind::kPause;
  } else if (dice < 60) {
    call.kind = Kind::kResume;
  } else if (dice < 75) {
    call.kind = Kind::kUpdate;
    call.priority = static_cast<int32_t>(world_->Between(-5, 5));
  } else if (dice < 82) {
    call.kind = Kind::kDelete;
  } else {
    call.kind = dice < 92 ? Kind::kDrain : Kind::kUndrain;
    call.worker = absl::StrCat("w", world_->Below(workers_));
    call.evict = world_->Chance(500);
    call.job_id.clear();
  }
  Issue(std::move(call));
}

void Clients::Release() {
  releasing_ = true;
  for (const auto& [job_id, job] : site_->rows.jobs) {
    if (job.state != scheduler::JobState::kPaused) continue;
    ClientCall call;
    call.kind = Kind::kResume;
    call.job_id = job_id;
    Issue(std::move(call));
  }
  for (const auto& [worker_id, worker] : site_->rows.workers) {
    if (!worker.drained) continue;
    ClientCall call;
    call.kind = Kind::kUndrain;
    call.worker = worker_id;
    Issue(std::move(call));
  }
}

void Clients::Issue(ClientCall call) {
  auto op = std::make_shared<Op>();
  op->call = std::move(call);
  // Some users do not wait for an answer.
  if (!releasing_ && world_->Chance(100)) op->gives_up_after = 1;
  ++open_;
  Try(op);
}

void Clients::Close(Op& op) {
  op.over = true;
  --open_;
}

void Clients::TryAgain(const std::shared_ptr<Op>& op) {
  if (op->call.tries >= op->gives_up_after) return Close(*op);
  world_->At(world_->Between(200, 2000) * kMillis, life_, [this, op] {
    if (!op->over) Try(op);
  });
}

void Clients::Try(const std::shared_ptr<Op>& op) {
  const int number = ++op->call.tries;
  for (const auto& checker : *checkers_) checker->ClientSent(op->call);
  SimDaemon* const daemon = daemon_();
  if (daemon == nullptr) return TryAgain(op);
  if (number > 1) world_->Reached("client: tried again");
  world_->At(kDeadline, life_, [this, op, number] {
    if (!op->over && op->call.tries == number) TryAgain(op);
  });
  network_->Send(kMachine, daemon->life(), [this, op] {
    daemon_()->Post(op->call, [this, op](const coordinator::Outcome& outcome) {
      network_->Send(kMachine, life_, [this, op, outcome] { Answered(op, outcome); });
    });
  });
}

void Clients::Answered(const std::shared_ptr<Op>& op, const coordinator::Outcome& outcome) {
  // An answer that comes after another one, or after the user has gone, is true all the same.
  if (outcome.status.ok()) {
    for (const auto& checker : *checkers_) checker->ClientAnswered(op->call, outcome);
    if (!op->over) Close(*op);
    return;
  }
  // Not carried out: the deadline brings the next try.
  world_->Reached(absl::StrCat("client: ", outcome.reason));
}

}  // namespace nibble::sim
