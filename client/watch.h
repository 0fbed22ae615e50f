// Follows jobs until all have ended.
#ifndef CLIENT_WATCH_H_
#define CLIENT_WATCH_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/session.h"

namespace nibble::client {

struct WatchOptions {
  // Print nothing but, on standard error, how each job ended.
  bool quiet = false;
  // Plain output: at most one line in so many steps, or in so much time. Validations and the last
  // step always have theirs.
  int64_t every_steps = 1;
  absl::Duration every_time = absl::ZeroDuration();
  // How long to wait for a daemon that went away.
  absl::Duration reconnect_window = absl::Minutes(10);
};

// A live view where the output is a terminal, otherwise a line for each state and step; with -o
// json a JSON object a line. Returns 0 where every job succeeded, 1 where one failed, was cancelled
// or was deleted, 130 after Ctrl-C, which leaves the jobs running. UNAVAILABLE: the daemon stayed
// away.
absl::StatusOr<int> Watch(Session& session, const std::vector<std::string>& job_ids,
                          const WatchOptions& options);

}  // namespace nibble::client

#endif  // CLIENT_WATCH_H_
