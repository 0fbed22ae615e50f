#include "tests/sim/simulation.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/sim/checkers/all.h"

namespace nibble::sim {
namespace {

constexpr int64_t kFaultTime = 150 * kSeconds;
// Long enough for every back-off, grace and orphan limit one after another.
constexpr int64_t kCalmTime = 1500 * kSeconds;
constexpr int64_t kWatchNanos = 500 * kMillis;
// Every so many seeds the rows lie in SQLite files, which takes ten times as long.
constexpr uint64_t kSeedsOfFiles = 25;

scheduler::SchedulerOptions Options() {
  scheduler::SchedulerOptions options;
  options.orphan_limit_nanos = 60 * kSeconds;
  options.backoff_max_nanos = 10 * kSeconds;
  options.projects = {{"owner", 1, 2}, {"guest", 2, 0, 4}, {"default", 1}};
  options.ageing_nanos = 10 * kSeconds;
  options.min_run_nanos = 8 * kSeconds;
  options.pause_grace_nanos = 20 * kSeconds;
  return options;
}

}  // namespace

Simulation::Simulation(uint64_t seed, bool trace)
    : directory_(FilesFor(seed, &files_)),
      world_(seed, trace),
      options_(Options()),
      store_(&world_, directory_),
      metrics_(&world_, directory_),
      network_(&world_) {
  site_.world = &world_;
  site_.options = &options_;
  site_.plans = &plans_;
  site_.disk = &disk_;
  site_.store = &store_;
  site_.metrics = &metrics_;
  site_.slots_of_worker = static_cast<int32_t>(world_.Between(1, 3));
  checkers_ = AllCheckers(&site_);
  disk_.on_remove = [this](const std::string& path) {
    for (const auto& checker : checkers_) checker->CheckpointRemoved(path);
  };
  store_.on_commit = [this](const scheduler::Transaction& transaction) {
    site_.rows.Apply(transaction);
    for (const auto& checker : checkers_) checker->Committed(transaction);
  };
  store_.on_full = [this] {
    for (const auto& checker : checkers_) checker->SchedulerRestarts();
  };
  const auto find = [this] { return daemon_.get(); };
  const int workers = static_cast<int>(world_.Between(2, 4));
  for (int i = 0; i < workers; ++i) {
    workers_.push_back(std::make_unique<SimWorker>(&site_, &disk_, &checkers_, &network_,
                                                   absl::StrCat("w", i), find));
  }
  clients_ = std::make_unique<Clients>(&site_, &plans_, &checkers_, &network_, find, workers);
  site_.stream = world_.Chance(50);
  if (site_.stream) {
    faults_ = false;
    network_.set_faults(false);
    site_.slots_of_worker = static_cast<int32_t>(world_.Between(2, 3));
  }
  jobs_left_ = static_cast<int>(world_.Between(4, 10));
  if (workers > 2 && !site_.stream && world_.Chance(250)) lost_worker_ = "w1";
}

std::string Simulation::FilesFor(uint64_t seed, std::optional<TemporaryDirectory>* directory) {
  if (seed % kSeedsOfFiles != 0) return "";
  auto made = TemporaryDirectory::Make();
  NIBBLE_CHECK(made.ok());
  directory->emplace(*std::move(made));
  return (*directory)->path();
}

Simulation::~Simulation() {
  workers_.clear();
  daemon_.reset();
}

Result Simulation::Run() {
  StartDaemon();
  for (const auto& worker : workers_) worker->Start();
  world_.At(kWatchNanos, life_, [this] { Supervise(); });
  world_.At(kSeconds, life_, [this] { Users(); });
  world_.At(world_.Between(1, 10) * kSeconds, life_, [this] { Fault(); });
  if (site_.stream) Stream();
  while (world_.now() < kFaultTime && world_.RunOne()) {
  }
  Calm();
  const int64_t end = world_.now() + kCalmTime;
  while (!AtRest() && world_.now() < end && world_.RunOne()) {
  }
  if (world_.violation() == Violation::kNone && !AtRest()) {
    world_.Fail(Violation::kLiveness,
                absl::StrCat("without faults this did not end: ", WhatIsLeft()));
  }
  if (world_.violation() == Violation::kNone) {
    for (const auto& checker : checkers_) checker->Finished();
  }
  return {world_.violation(), world_.what(), world_.reached()};
}

void Simulation::StartDaemon() {
  world_.Trace("the daemon starts");
  daemon_ = std::make_unique<SimDaemon>(&site_, &checkers_);
  if (daemon_->dead()) StopDaemon(/*power_cut=*/false);
}

void Simulation::StopDaemon(bool power_cut) {
  if (daemon_ == nullptr) return;
  world_.Trace(power_cut ? "power cut at the daemon" : "the daemon is dead");
  daemon_.reset();
  for (const auto& worker : workers_) worker->DaemonDied();
  store_.Reopen(power_cut);
  if (power_cut) metrics_.PowerCut();
  const int64_t down = world_.Chance(150) ? world_.Between(15, 80) : world_.Between(0, 8);
  daemon_up_at_ = world_.now() + (faults_ ? down : 1) * kSeconds;
}

void Simulation::Supervise() {
  if (daemon_ != nullptr && daemon_->dead()) StopDaemon(/*power_cut=*/false);
  if (daemon_ == nullptr && world_.now() >= daemon_up_at_) StartDaemon();
  for (const auto& worker : workers_) {
    if (!faults_ && worker->name() == lost_worker_) continue;
    if (!worker->running() && world_.now() >= worker_up_at_[worker->name()]) worker->Start();
  }
  std::set<std::string> frozen;
  for (const auto& worker : workers_) {
    if (worker->frozen()) frozen.insert(worker->name());
  }
  for (const auto& checker : checkers_) checker->TimePasses(frozen);
  world_.At(kWatchNanos, life_, [this] { Supervise(); });
}

void Simulation::Users() {
  if (!faults_) return;
  if (jobs_left_ > 0 && world_.Chance(500)) {
    --jobs_left_;
    clients_->Submit();
  } else {
    clients_->Act();
  }
  world_.At(world_.Between(500, 9000) * kMillis, life_, [this] { Users(); });
}

// More narrow jobs than there is room for, so that slots come free one by one; a wide job gets its
// own only where they are kept for it.
void Simulation::Stream() {
  if (world_.now() > kFaultTime) return;
  const bool wide = world_.Chance(60);
  clients_->SubmitPlain(wide ? site_.slots_of_worker : 1);
  const int64_t slots = site_.slots_of_worker * static_cast<int64_t>(workers_.size());
  world_.At(7 * kSeconds / slots, life_, [this] { Stream(); });
}

void Simulation::Fault() {
  if (!faults_) return;
  world_.At(world_.Between(1, 15) * kSeconds, life_, [this] { Fault(); });
  const int64_t dice = world_.Below(100);
  SimWorker& worker = *workers_[world_.Below(static_cast<int64_t>(workers_.size()))];
  if (dice < 12) {
    world_.Reached("daemon: killed");
    return StopDaemon(/*power_cut=*/false);
  }
  if (dice < 20) {
    world_.Reached("daemon: power cut");
    return StopDaemon(/*power_cut=*/true);
  }
  if (dice < 30) return store_.CrashAtNextCommit();
  if (dice < 35) {
    store_.FillDisk(true);
    return world_.At(world_.Between(1, 10) * kSeconds, life_, [this] { store_.FillDisk(false); });
  }
  if (dice < 40) {
    world_.Reached("clock: jumped");
    const int64_t decade = int64_t{10} * 365 * 86'400 * 1'000'000;
    return world_.JumpWall(world_.Chance(500) ? decade : -decade);
  }
  if (dice < 46 && daemon_ != nullptr) {
    world_.Reached("daemon: stalled");
    return daemon_->Stall(world_.Between(1, 25) * kSeconds);
  }
  WorkerFault(worker);
}

void Simulation::WorkerFault(SimWorker& worker) {
  const int64_t dice = world_.Below(100);
  if (dice < 20) {
    world_.Reached("worker: killed");
    worker.Kill();
    worker_up_at_[worker.name()] =
        world_.now() + (world_.Chance(200) ? world_.Between(20, 100) : world_.Below(5)) * kSeconds;
  } else if (dice < 35) {
    world_.Reached("worker: frozen");
    worker.Freeze(world_.Between(1, 60) * kSeconds);
  } else if (dice < 60) {
    world_.Reached("worker: cut off");
    network_.CutOff(worker.name(), world_.Between(1, world_.Chance(200) ? 90 : 25) * kSeconds);
  } else if (dice < 65) {
    world_.Reached("worker: everybody cut off");
    const int64_t seconds = world_.Between(5, 40);
    for (const auto& each : workers_) network_.CutOff(each->name(), seconds * kSeconds);
  } else if (dice < 72) {
    world_.Reached("worker: told to end");
    worker.ShutDown();
  } else {
    worker.KillATrainer();
  }
}

void Simulation::Calm() {
  world_.Trace("no more faults");
  faults_ = false;
  network_.set_faults(false);
  network_.Heal();
  store_.FillDisk(false);
  store_.CrashAtNextCommit(false);
  daemon_up_at_ = world_.now();
  worker_up_at_.clear();
  for (const auto& worker : workers_) {
    worker->Thaw();
    if (worker->name() == lost_worker_) worker->Kill();
  }
  ReleaseAll();
}

void Simulation::ReleaseAll() {
  clients_->Release();
  world_.At(5 * kSeconds, life_, [this] { ReleaseAll(); });
}

bool Simulation::AtRest() const { return WhatIsLeft().empty(); }

std::string Simulation::WhatIsLeft() const {
  for (const auto& [job_id, job] : site_.rows.jobs) {
    if (!scheduler::IsTerminal(job.state)) {
      return absl::StrCat("job ", job_id, " (", job.document->name, ") is ",
                          scheduler::JobStateName(job.state), ": ", job.reason_message);
    }
  }
  for (const scheduler::PurgeRecord& purge : site_.rows.purges) {
    if (purge.worker_id == lost_worker_) continue;
    return absl::StrCat("files of deleted job ", purge.job_id, " on '", purge.worker_id, "'");
  }
  if (!site_.trainers.empty()) {
    return absl::StrCat("a trainer of ", site_.trainers[0]->attempt.job_id, " on ",
                        site_.trainers[0]->worker);
  }
  return clients_->idle() ? "" : "a client without its answer";
}

}  // namespace nibble::sim
