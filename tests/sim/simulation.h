// One run under one seed: a daemon, workers, clients and everything that can happen to them. In the
// first half faults strike at random; in the second there are none, and everything must end.
#ifndef TESTS_SIM_SIMULATION_H_
#define TESTS_SIM_SIMULATION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "tests/sim/checker.h"
#include "tests/sim/clients.h"
#include "tests/sim/daemon.h"
#include "tests/sim/network.h"
#include "tests/sim/worker.h"

namespace nibble::sim {

struct Result {
  Violation violation = Violation::kNone;
  std::string what;
  std::map<std::string, int64_t> reached;
};

class Simulation {
 public:
  Simulation(uint64_t seed, bool trace);
  ~Simulation();
  Result Run();

 private:
  void StartDaemon();
  void StopDaemon(bool power_cut);
  // Restarts what is dead, after a while.
  void Supervise();
  void Users();
  void Stream();
  void Fault();
  void WorkerFault(SimWorker& worker);
  void Calm();
  void ReleaseAll();
  bool AtRest() const;
  std::string WhatIsLeft() const;

  static std::string FilesFor(uint64_t seed, std::optional<TemporaryDirectory>* directory);

  std::optional<TemporaryDirectory> files_;
  const std::string directory_;  // of SQLite files; empty for none
  World world_;
  scheduler::SchedulerOptions options_;
  Plans plans_;
  Disk disk_;
  SimStore store_;
  SimMetricStore metrics_;
  Network network_;
  Site site_;
  Checkers checkers_;
  const Life life_ = NewLife();
  std::unique_ptr<SimDaemon> daemon_;
  std::vector<std::unique_ptr<SimWorker>> workers_;
  std::unique_ptr<Clients> clients_;
  bool faults_ = true;
  int jobs_left_ = 0;
  int64_t daemon_up_at_ = 0;
  std::map<std::string, int64_t> worker_up_at_;
  // A worker that does not come back before the very end: what it held has to run elsewhere.
  std::string lost_worker_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_SIMULATION_H_
