#include "client/watch.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"

namespace nibble::client {
namespace {

// Each watched job is a stream and a thread.
constexpr size_t kMostJobs = 64;

class WatchVerb : public Verb {
 public:
  VerbText text() const override {
    return {
        "watch",
        "Follow jobs until they end",
        "Follows jobs until all have ended. On a terminal: a progress bar, step, tokens/s, loss, "
        "time left and a plot of the loss, for several jobs one below the other. In a pipe: a "
        "line for each change of state and each step. -o json prints a JSON object a line. The "
        "exit code is 1 where a job failed or was cancelled. Ctrl-C ends the watching, not the "
        "jobs. A restart of the daemon is waited for.",
        "nibble watch kjv-nvfp4\n"
        "nibble watch kjv-nvfp4 kjv-bf16\n"
        "nibble watch                               # all that have not ended\n"
        "nibble watch kjv-nvfp4 --every 100 > run.log    # a line in a hundred steps\n"
        "nibble watch kjv-nvfp4 --every 30s | tee run.log",
        {"table", "json"}};
  }
  std::vector<Option> options() override {
    return {{"JOB",
             "",
             "Id, beginning of an id, or name; without: all that have not ended",
             &jobs_,
             false,
             {},
             Completion::kJob},
            {"--every", "N", "In a pipe: a line every N steps, or with a unit (10s) every so often",
             &every_},
            {"--reconnect", "TIME", "Wait so long for a daemon that went away. Default 10m",
             &reconnect_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    WatchOptions options;
    NIBBLE_RETURN_IF_ERROR(ParseEvery(&options));
    if (!absl::ParseDuration(reconnect_, &options.reconnect_window) ||
        options.reconnect_window < absl::ZeroDuration()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--reconnect is \"", reconnect_, "\"; allowed: a time, e.g. 30s, 10m"));
    }
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> ids, JobIds(*connection));
    if (ids.empty()) {
      session.err() << "Every job has ended.\n";
      return 0;
    }
    return Watch(session, ids, options);
  }

 private:
  absl::Status ParseEvery(WatchOptions* options) const {
    if (every_.empty() ||
        (absl::SimpleAtoi(every_, &options->every_steps) && options->every_steps > 0)) {
      return absl::OkStatus();
    }
    options->every_steps = 1;
    if (absl::ParseDuration(every_, &options->every_time) &&
        options->every_time > absl::ZeroDuration()) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "--every is \"", every_, "\"; allowed: a number of steps (10) or a time (5s)"));
  }

  absl::StatusOr<std::vector<std::string>> JobIds(Connection& connection) const {
    std::vector<std::string> ids;
    for (const std::string& reference : jobs_) {
      NIBBLE_ASSIGN_OR_RETURN(const std::string id, FindJobId(connection, reference));
      if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    }
    if (jobs_.empty()) {
      v1::ListJobsRequest request;
      for (const v1::JobState state :
           {v1::QUEUED, v1::STARTING, v1::RUNNING, v1::PAUSING, v1::STOPPING}) {
        request.add_states(state);
      }
      NIBBLE_RETURN_IF_ERROR(ForEachJob(connection, request, [&](const v1::Job& job) {
        ids.push_back(job.job_id());
        return ids.size() <= kMostJobs;
      }));
    }
    if (ids.size() > kMostJobs) {
      return absl::InvalidArgumentError(
          absl::StrCat("these are more than ", kMostJobs, " jobs; name those to watch"));
    }
    return ids;
  }

  std::vector<std::string> jobs_;
  std::string every_;
  std::string reconnect_ = "10m";
};

}  // namespace

std::unique_ptr<Verb> MakeWatchVerb() { return std::make_unique<WatchVerb>(); }

}  // namespace nibble::client
