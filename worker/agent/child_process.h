// fork, exec and reaping of one process group; the system calls under process_launcher.h.
#ifndef WORKER_AGENT_CHILD_PROCESS_H_
#define WORKER_AGENT_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"

namespace nibble::agent {

struct ChildFiles {
  int link = -1;          // becomes descriptor 3 of the child
  int output = -1;        // becomes its standard output and error
  int memory = -1;        // becomes descriptor 4, with `--memory-fd 4`; -1: none
  std::string directory;  // becomes its current directory, where a core file would go
};

// Starts `program --link-fd 3`, an absolute path, in a new process group whose id is the returned
// process id. It gets SIGKILL when the calling thread ends: call from the thread that waits for it.
// NOT_FOUND, PERMISSION_DENIED or INTERNAL where it cannot be executed.
absl::StatusOr<pid_t> StartChild(const std::string& program, const ChildFiles& files);

// Waits until `pid` is dead, without reaping it: its process group still exists.
void AwaitDeath(pid_t pid);

// Kills what is left of the group and reaps all of it. REQUIRES: AwaitDeath(pid) returned.
// Returns the wait status of `pid` itself.
int ReapGroup(pid_t pid);

// Processes that the kernel's out-of-memory killer has killed since boot; 0 where unknown.
int64_t OutOfMemoryKills();

}  // namespace nibble::agent

#endif  // WORKER_AGENT_CHILD_PROCESS_H_
