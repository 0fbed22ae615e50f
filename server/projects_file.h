// The file that says how slots are shared (nibbled --projects): nibble.v1.SchedulingConfig as YAML,
// JSON or text proto. See docs/scheduling.md.
#ifndef SERVER_PROJECTS_FILE_H_
#define SERVER_PROJECTS_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "server/scheduler/scheduler.h"

namespace nibble::daemon {

// Fills in what the file says; the rest of *options stays. INVALID_ARGUMENT with every wrong field
// in the message; errors of reading the file.
absl::Status ReadProjectsFile(const std::string& path, scheduler::SchedulerOptions* options);

}  // namespace nibble::daemon

#endif  // SERVER_PROJECTS_FILE_H_
