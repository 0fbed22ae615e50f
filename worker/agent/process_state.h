// What the kernel says of a process's threads: for one that hangs, and that may not be able to
// speak for itself.
#ifndef WORKER_AGENT_PROCESS_STATE_H_
#define WORKER_AGENT_PROCESS_STATE_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace nibble::agent {

struct ProcessState {
  // "thread 17 (nibble-trainer): sleeping in futex_wait_queue".
  std::vector<std::string> threads;
  bool stopped = false;  // by SIGSTOP or a debugger
  // It has a handler for `signal`: one without would die of it.
  bool handles_signal = false;
};

// Empty where there is no such process.
ProcessState ReadProcessState(pid_t pid, int signal);

}  // namespace nibble::agent

#endif  // WORKER_AGENT_PROCESS_STATE_H_
