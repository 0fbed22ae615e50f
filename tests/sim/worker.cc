#include "tests/sim/worker.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include "base/random.h"

namespace nibble::sim {

// Starts trainers and keeps track of those that live.
class SimWorker::Launcher : public agent::TrainerLauncher {
 public:
  explicit Launcher(SimWorker* worker) : worker_(*worker) {}
  std::unique_ptr<agent::TrainerProcess> Launch(const agent::LaunchRequest& request,
                                                std::function<void()> notify) override {
    auto trainer = std::make_unique<Tracked>(&worker_, request, [this, notify = std::move(notify)] {
      notify();
      worker_.Wake(0);
    });
    for (const auto& checker : *worker_.checkers_) checker->TrainerLaunched(trainer->view());
    return trainer;
  }

 private:
  class Tracked : public SimTrainer {
   public:
    Tracked(SimWorker* worker, const agent::LaunchRequest& request, std::function<void()> notify)
        : SimTrainer(worker->site_, worker->disk_, worker->checkers_, worker->name_, request,
                     std::move(notify)),
          worker_(*worker) {
      worker_.trainers_.push_back(this);
    }
    ~Tracked() override {
      auto& all = worker_.trainers_;
      all.erase(std::find(all.begin(), all.end(), this));
    }

   private:
    SimWorker& worker_;
  };
  SimWorker& worker_;
};

// Removes files some time later, in order.
class SimWorker::Tasks : public agent::TaskRunner {
 public:
  Tasks(World* world, Life life, std::function<void()> wake)
      : world_(world), life_(std::move(life)), wake_(std::move(wake)) {}
  void Run(std::function<void()> task) override {
    last_at_ = std::max(last_at_, world_->now() + world_->Between(0, 2000) * kMillis);
    world_->At(last_at_ - world_->now(), life_, [this, task = std::move(task)] {
      task();
      wake_();
    });
  }

 private:
  World* const world_;
  const Life life_;
  const std::function<void()> wake_;
  int64_t last_at_ = 0;
};

// What dies with the process.
struct SimWorker::Process {
  explicit Process(SimWorker* worker)
      : loop(worker->site_->world->clock()),
        link(worker->site_->world, worker->network_, worker->name_, life, worker->daemon_,
             [worker] { worker->Wake(0); }),
        launcher(worker),
        tasks(worker->site_->world, life, [worker] { worker->Wake(0); }) {}

  Life life = NewLife();
  agent::EventLoop loop;
  SimDaemonLink link;
  Launcher launcher;
  Tasks tasks;
  std::unique_ptr<agent::Agent> agent;
};

SimWorker::SimWorker(Site* site, Disk* disk, const Checkers* checkers, Network* network,
                     std::string name, FindDaemon daemon)
    : site_(site),
      disk_(disk),
      checkers_(checkers),
      network_(network),
      name_(std::move(name)),
      daemon_(std::move(daemon)),
      directories_(disk, name_) {}

SimWorker::~SimWorker() { Kill(); }

void SimWorker::Start() {
  if (process_ != nullptr) return;
  World& world = *site_->world;
  process_ = std::make_unique<Process>(this);
  agent::AgentOptions options;
  options.host = name_;
  options.device_kind = "cpu";
  options.slots = site_->slots_of_worker;
  options.orphan_limit_nanos = site_->options->orphan_limit_nanos;
  agent::AttemptContext context;
  context.worker_id = name_;
  context.incarnation = MakeId("i-", world);
  context.data_directory = "/data";
  context.clock = &world.clock();
  context.random = &world;
  context.loop = &process_->loop;
  context.link = &process_->link;
  context.launcher = &process_->launcher;
  context.tasks = &process_->tasks;
  context.directory = &directories_;
  process_->agent = std::make_unique<agent::Agent>(options, std::move(context));
  world.Trace(name_ + " starts");
  runs_at_ = INT64_MAX;
  Wake(0);
}

void SimWorker::Kill() {
  if (process_ == nullptr) return;
  site_->world->Trace(name_ + " is dead");
  process_->life.reset();
  process_.reset();
  frozen_until_ = 0;
}

void SimWorker::ShutDown() {
  if (process_ == nullptr) return;
  process_->agent->ShutDown();
  Wake(0);
}

void SimWorker::Thaw() {
  frozen_until_ = 0;
  Wake(0);
}

void SimWorker::KillATrainer() {
  if (trainers_.empty()) return;
  SimTrainer* const victim = trainers_[site_->world->Below(static_cast<int64_t>(trainers_.size()))];
  if (victim->exit().has_value()) return;
  site_->world->Reached("trainer: killed");
  victim->Die(SIGKILL);
}

void SimWorker::DaemonDied() {
  if (process_ != nullptr) process_->link.DaemonDied();
}

void SimWorker::Wake(int64_t delay_nanos) {
  if (process_ == nullptr) return;
  World& world = *site_->world;
  const int64_t at = std::max(world.now() + delay_nanos, frozen_until_);
  if (at >= runs_at_) return;
  runs_at_ = at;
  world.At(at - world.now(), process_->life, [this, at] {
    if (at != runs_at_) return;  // an earlier run came in between
    runs_at_ = INT64_MAX;
    Run();
  });
}

void SimWorker::Run() {
  World& world = *site_->world;
  if (world.now() < frozen_until_) return Wake(0);
  process_->loop.RunPending();
  process_->agent->Tick();
  if (process_->agent->done()) {
    // A service manager starts it again.
    world.Reached(process_->agent->result().ok() ? "worker: ended in order" : "worker: replaced");
    world.At(0, process_->life, [this] { Kill(); });
    return;
  }
  Wake(std::max<int64_t>(process_->agent->NextTick() - world.now(), kMillis));
}

}  // namespace nibble::sim
