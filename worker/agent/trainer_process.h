// A trainer process as the agent sees it. The real one forks (process_launcher.h); tests have a
// fake that they script.
#ifndef WORKER_AGENT_TRAINER_PROCESS_H_
#define WORKER_AGENT_TRAINER_PROCESS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nibble/v1/trainer_link.pb.h"
#include "worker/snapshot/trainer_memory.h"

namespace nibble::agent {

// How a trainer ended.
struct TrainerExit {
  absl::Status launch_error;   // not OK: it never ran
  absl::Status link_error;     // not OK: it broke the protocol and was killed for it
  int exit_code = 0;           // where signal is 0
  int signal = 0;              // that killed it
  bool out_of_memory = false;  // the kernel's out-of-memory killer was at work meanwhile
};

struct LogEntry {
  int64_t wall_micros = 0;
  std::string text;  // without the line end; UTF-8, control characters escaped, bounded
};

// All methods are thread-safe and return at once. Destroying it kills the process group and waits.
class TrainerProcess {
 public:
  virtual ~TrainerProcess() = default;

  // Queues a command. Silently dropped once the trainer is dead.
  virtual void Send(const v1::TrainerCommand& command) = 0;

  // The next reports, oldest first. While many are not taken the trainer is held up.
  virtual std::vector<v1::TrainerReport> TakeReports(size_t max) = 0;

  // The next lines of standard output and error. Lines that nobody takes are dropped, oldest
  // first, and a line says how many.
  virtual std::vector<LogEntry> TakeLogs(size_t max) = 0;

  // Puts what can be learnt of its threads into the log: where the kernel has them, and their own
  // stacks as far as they can still be asked. Returns what is known at once, such as "stopped by a
  // signal"; may be empty.
  virtual std::string DumpStacks() { return ""; }

  // Sends SIGTERM or SIGKILL to the whole process group, if it is not dead yet.
  virtual void Signal(int signal) = 0;

  // Set only once every process of the group is dead and reaped. Reports and log lines from before
  // are all there to take by then.
  virtual std::optional<TrainerExit> exit() = 0;
};

struct LaunchRequest {
  v1::StartTraining start;  // sent as the first command
  // Shared with the trainer; outlives the process. Null: none.
  std::shared_ptr<snapshot::TrainerMemory> memory;
  std::string attempt_directory;  // made if need be; trainer.log goes here
};

class TrainerLauncher {
 public:
  virtual ~TrainerLauncher() = default;
  // Memory that outlives a trainer; null where there is none.
  virtual std::shared_ptr<snapshot::TrainerMemory> MakeMemory() { return nullptr; }
  // Starts a trainer; a failure to start shows as its exit. `notify` is called from any thread
  // whenever there may be something new to take; it must be cheap and may be called spuriously.
  virtual std::unique_ptr<TrainerProcess> Launch(const LaunchRequest& request,
                                                 std::function<void()> notify) = 0;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_TRAINER_PROCESS_H_
