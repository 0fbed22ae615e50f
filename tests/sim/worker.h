// A simulated machine with a worker: the real agent, whose process starts, freezes, is killed and
// starts again, and its trainers, which die with it.
#ifndef TESTS_SIM_WORKER_H_
#define TESTS_SIM_WORKER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/daemon_link.h"
#include "tests/sim/trainer.h"
#include "worker/agent/agent.h"
#include "worker/agent/event_loop.h"

namespace nibble::sim {

class SimWorker {
 public:
  SimWorker(Site* site, Disk* disk, const Checkers* checkers, Network* network, std::string name,
            FindDaemon daemon);
  ~SimWorker();

  const std::string& name() const { return name_; }
  bool running() const { return process_ != nullptr; }
  void Start();
  // kill -9 of the worker process; its trainers go with it.
  void Kill();
  // SIGTERM.
  void ShutDown();
  // SIGSTOP of the worker process alone.
  void Freeze(int64_t nanos) { frozen_until_ = site_->world->now() + nanos; }
  void Thaw();
  bool frozen() const { return site_->world->now() < frozen_until_; }
  // kill -9 of one of its trainers, if there is one.
  void KillATrainer();
  void DaemonDied();

 private:
  struct Process;
  class Launcher;
  class Tasks;

  void Wake(int64_t delay_nanos);
  void Run();

  Site* const site_;
  Disk* const disk_;
  const Checkers* const checkers_;
  Network* const network_;
  const std::string name_;
  const FindDaemon daemon_;
  const SimDirectories directories_;
  int64_t frozen_until_ = 0;
  int64_t runs_at_ = INT64_MAX;
  std::vector<SimTrainer*> trainers_;
  std::unique_ptr<Process> process_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_WORKER_H_
