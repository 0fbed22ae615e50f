// Verbs that do one thing to each of several jobs: pause, resume, cancel, delete.
#ifndef CLIENT_COMMANDS_JOB_ACTION_H_
#define CLIENT_COMMANDS_JOB_ACTION_H_

#include <functional>
#include <string>
#include <vector>

#include "client/verb.h"

namespace nibble::client {

// Calls `action` for every job; prints the job it returns ("<id> <STATE>", or the whole job with -o
// json and yaml). A job that is refused does not keep the others from their turn; the exit code is
// that of the first error.
absl::StatusOr<int> RunJobAction(
    Session& session, const std::vector<std::string>& references,
    const std::function<absl::StatusOr<v1::Job>(Connection&, const std::string& job_id)>& action);

}  // namespace nibble::client

#endif  // CLIENT_COMMANDS_JOB_ACTION_H_
