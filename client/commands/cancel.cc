#include "client/commands/commands.h"
#include "client/commands/job_action.h"

namespace nibble::client {
namespace {

class CancelVerb : public Verb {
 public:
  VerbText text() const override {
    return {"cancel",
            "End jobs for good",
            "Cancels jobs. A running one is STOPPING until its processes are proven dead, then "
            "CANCELLED. Cancelling twice does no harm; a job that succeeded or failed refuses.",
            "nibble cancel kjv-nvfp4\nnibble list --state queued -o json | jq -r '.jobs[].job_id' "
            "| xargs nibble cancel",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &jobs_, true, {}, Completion::kJob}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    return RunJobAction(session, jobs_, [](Connection& connection, const std::string& job_id) {
      return connection.CancelJob(job_id);
    });
  }

 private:
  std::vector<std::string> jobs_;
};

}  // namespace

std::unique_ptr<Verb> MakeCancelVerb() { return std::make_unique<CancelVerb>(); }

}  // namespace nibble::client
