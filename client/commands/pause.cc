#include "client/commands/commands.h"
#include "client/commands/job_action.h"

namespace nibble::client {
namespace {

class PauseVerb : public Verb {
 public:
  VerbText text() const override {
    return {"pause",
            "Stop jobs for now, keeping their progress",
            "Pauses jobs. A running one finishes its step, writes a checkpoint, and gives its "
            "slots back; a queued one just waits. The state is PAUSED once the checkpoint is "
            "committed. Refused for a job that has ended.",
            "nibble pause kjv-nvfp4\nnibble resume kjv-nvfp4",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &jobs_, true, {}, Completion::kJob}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    return RunJobAction(session, jobs_, [](Connection& connection, const std::string& job_id) {
      return connection.PauseJob(job_id);
    });
  }

 private:
  std::vector<std::string> jobs_;
};

}  // namespace

std::unique_ptr<Verb> MakePauseVerb() { return std::make_unique<PauseVerb>(); }

}  // namespace nibble::client
