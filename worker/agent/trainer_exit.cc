#include "worker/agent/trainer_exit.h"

#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace nibble::agent {

Failure ClassifyExit(const TrainerExit& exit, const std::string& log_tail) {
  Failure failure;
  if (!exit.launch_error.ok()) {
    failure.message = absl::StrCat("cannot start the trainer: ", exit.launch_error.message());
    return failure;
  }
  if (!exit.link_error.ok()) {
    failure.message = absl::StrCat("the trainer broke the protocol: ", exit.link_error.message());
  } else if (exit.signal == SIGKILL && exit.out_of_memory) {
    failure.failure_class = v1::OUT_OF_MEMORY;
    failure.message = "the system ran out of memory and killed the trainer";
  } else if (exit.signal != 0) {
    if (exit.signal == SIGBUS) failure.failure_class = v1::HARDWARE;
    failure.message =
        absl::StrCat("the trainer died of signal ", exit.signal, " (", strsignal(exit.signal), ")");
  } else {
    failure.message =
        absl::StrCat("the trainer exited with code ", exit.exit_code, " and no report");
  }
  if (!log_tail.empty()) absl::StrAppend(&failure.message, "; last output: ", log_tail);
  return failure;
}

}  // namespace nibble::agent
