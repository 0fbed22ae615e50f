// What the end of a trainer process means for its attempt.
#ifndef WORKER_AGENT_TRAINER_EXIT_H_
#define WORKER_AGENT_TRAINER_EXIT_H_

#include <string>

#include "nibble/v1/job.pb.h"
#include "worker/agent/trainer_process.h"

namespace nibble::agent {

struct Failure {
  v1::FailureClass failure_class = v1::CONTROL;
  std::string message;
};

// Why a trainer failed that ended without saying so over the link:
//   OUT_OF_MEMORY  SIGKILL while the kernel's out-of-memory killer was at work
//   HARDWARE       SIGBUS: memory or a mapped file went away
//   CONTROL        everything else: a crash, a kill by somebody, a failure to start
// `log_tail` (may be empty) ends the message.
Failure ClassifyExit(const TrainerExit& exit, const std::string& log_tail);

}  // namespace nibble::agent

#endif  // WORKER_AGENT_TRAINER_EXIT_H_
