#include "client/commands/commands.h"
#include "client/commands/job_action.h"

namespace nibble::client {
namespace {

class ResumeVerb : public Verb {
 public:
  VerbText text() const override {
    return {"resume",
            "Queue paused jobs again",
            "Puts paused jobs back into the queue. They go on from their last checkpoint and end "
            "with the same bits as if they had never stopped.",
            "nibble resume kjv-nvfp4",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &jobs_, true, {}, Completion::kJob}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    return RunJobAction(session, jobs_, [](Connection& connection, const std::string& job_id) {
      return connection.ResumeJob(job_id);
    });
  }

 private:
  std::vector<std::string> jobs_;
};

}  // namespace

std::unique_ptr<Verb> MakeResumeVerb() { return std::make_unique<ResumeVerb>(); }

}  // namespace nibble::client
