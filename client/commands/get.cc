#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"
#include "client/job_view.h"

namespace nibble::client {
namespace {

class GetVerb : public Verb {
 public:
  VerbText text() const override {
    return {"get",
            "One job: state and why, progress, result",
            "Shows one job: its state and the reason for it, how far it is, what was resolved from "
            "its spec, its times, its scores on evaluation tasks and, once it succeeded, its "
            "result. -o wide adds the operand "
            "formats of every linear layer; -o json and yaml print all that the daemon knows.",
            "nibble get kjv-nvfp4\n"
            "nibble get j-3f                            # the job whose id begins so\n"
            "nibble get kjv-nvfp4 -o json | jq .result.digest\n"
            "nibble get kjv-nvfp4 -o json | jq .spec > again.json    # a spec to submit again",
            {"table", "wide", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &job_, true, {}, Completion::kJob}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const v1::Job job, FindJob(*connection, job_));
    NIBBLE_ASSIGN_OR_RETURN(const Scores scores, ReadScores(*connection, job));
    ShowJob(session, job, scores);
    return 0;
  }

 private:
  std::string job_;
};

}  // namespace

std::unique_ptr<Verb> MakeGetVerb() { return std::make_unique<GetVerb>(); }

}  // namespace nibble::client
