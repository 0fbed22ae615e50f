#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"
#include "client/status.h"

namespace nibble::client {
namespace {

class DeleteVerb : public Verb {
 public:
  VerbText text() const override {
    return {"delete",
            "Remove ended jobs and all they left",
            "Deletes jobs that have ended: their records, metrics, logs and checkpoints. What is "
            "deleted is gone. Refused for a job that could still run: cancel it first.",
            "nibble delete j-3f\nnibble cancel old-run && nibble delete old-run",
            {}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &jobs_, true, {}, Completion::kJob}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    int exit_code = 0;
    for (const std::string& reference : jobs_) {
      const absl::StatusOr<std::string> id = FindJobId(*connection, reference);
      const absl::Status status = id.ok() ? connection->DeleteJob(*id).status() : id.status();
      if (status.ok()) {
        session.out() << Safe(*id) << " deleted" << std::endl;
      } else {
        PrintError(session.terminal(), status);
        if (exit_code == 0) exit_code = ExitCodeOf(status);
      }
    }
    return exit_code;
  }

 private:
  std::vector<std::string> jobs_;
};

}  // namespace

std::unique_ptr<Verb> MakeDeleteVerb() { return std::make_unique<DeleteVerb>(); }

}  // namespace nibble::client
