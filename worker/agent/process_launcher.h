// Starts trainers as child processes.
//
// A trainer runs in a process group of its own, with standard output and error in a pipe, standard
// input empty, and one end of a socket pair as --link-fd. It gets SIGKILL when the worker dies in
// any way (PR_SET_PDEATHSIG). When it ends, the rest of its group is killed and reaped before the
// end is announced: the caller is the reaper of orphans (BecomeReaper).
#ifndef WORKER_AGENT_PROCESS_LAUNCHER_H_
#define WORKER_AGENT_PROCESS_LAUNCHER_H_

#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "worker/agent/trainer_process.h"

namespace nibble::agent {

// Makes this process the parent of descendants whose parent died, so that a whole process group can
// be waited for. Once, at start.
void BecomeReaper();

class ProcessLauncher : public TrainerLauncher {
 public:
  // `trainer`: absolute path of the program. `clock` dates log lines and outlives the launcher.
  explicit ProcessLauncher(std::string trainer, const Clock& clock = RealClock())
      : trainer_(std::move(trainer)), clock_(clock) {}

  std::shared_ptr<snapshot::TrainerMemory> MakeMemory() override;
  std::unique_ptr<TrainerProcess> Launch(const LaunchRequest& request,
                                         std::function<void()> notify) override;

 private:
  const std::string trainer_;
  const Clock& clock_;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_PROCESS_LAUNCHER_H_
