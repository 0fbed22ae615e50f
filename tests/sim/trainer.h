// Simulated trainer processes: they train a hash chain, and speak the trainer link's messages as
// worker/link does.
#ifndef TESTS_SIM_TRAINER_H_
#define TESTS_SIM_TRAINER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/daemon.h"
#include "tests/sim/world.h"
#include "worker/agent/trainer_process.h"

namespace nibble::sim {

class SimTrainer : public agent::TrainerProcess {
 public:
  SimTrainer(Site* site, Disk* disk, const Checkers* checkers, std::string worker,
             const agent::LaunchRequest& request, std::function<void()> notify);
  // Kills it.
  ~SimTrainer() override;

  void Send(const v1::TrainerCommand& command) override;
  std::vector<v1::TrainerReport> TakeReports(size_t max) override;
  std::vector<agent::LogEntry> TakeLogs(size_t max) override;
  void Signal(int signal) override;
  std::optional<agent::TrainerExit> exit() override { return exit_; }

  const TrainerView& view() const { return view_; }
  // Dies of the signal at once, whoever sent it.
  void Die(int signal);

 private:
  void Load();
  void TrainStep();
  void AfterStep();
  void StartSave();
  void SaveWritten();
  void End();
  void ExitInOrder() { Exit(0); }
  void Report(v1::TrainerReport report);
  void FailWith(scheduler::FailureClass failure_class, const std::string& message);
  void Exit(int code);
  void Later(int64_t nanos, void (SimTrainer::*next)());

  Site* const site_;
  World* const world_;
  Disk* const disk_;
  const Checkers* const checkers_;
  const std::function<void()> notify_;
  const v1::StartTraining start_;
  const Plan plan_;
  TrainerView view_;
  Life life_ = NewLife();

  SavedState state_;
  std::optional<SavedState> saving_;
  bool save_wanted_ = false;  // once the one under way is written
  bool ending_ = false;       // the last save of this process is under way or awaits its commit
  bool ended_ = false;
  bool pause_requested_ = false;
  int64_t committed_step_ = -1;
  int64_t sequence_ = 0;
  std::deque<v1::TrainerReport> reports_;
  std::deque<agent::LogEntry> logs_;
  std::optional<agent::TrainerExit> exit_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_TRAINER_H_
