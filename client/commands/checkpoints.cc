#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"

namespace nibble::client {
namespace {

class CheckpointsVerb : public Verb {
 public:
  VerbText text() const override {
    return {"checkpoints",
            "Committed checkpoints of a job",
            "Lists the checkpoints of a job that the daemon has committed, newest first, with the "
            "directory on the worker's file system. Such a directory can be another job's "
            "training.init_from. -o wide adds the digest of the manifest.",
            "nibble checkpoints kjv-nvfp4\n"
            "nibble checkpoints kjv-nvfp4 -o json | jq -r '.checkpoints[0].path'",
            {"table", "wide", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &job_, true, {}, Completion::kJob}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const std::string id, FindJobId(*connection, job_));
    NIBBLE_ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse listed,
                            connection->ListCheckpoints(id));
    if (session.structured()) {
      PrintStructured(session, listed);
      return 0;
    }
    std::vector<Column> columns = {
        {"STEP", true}, {"ATTEMPT", true}, {"SIZE", true}, {"CREATED"}, {"PATH"}};
    const bool wide = session.format() == "wide";
    if (wide) columns.push_back({"MANIFEST"});
    Table table(columns);
    for (const v1::Checkpoint& checkpoint : listed.checkpoints()) {
      std::vector<std::string> cells = {absl::StrCat(checkpoint.step()),
                                        absl::StrCat(checkpoint.attempt()),
                                        Bytes(checkpoint.size_bytes()),
                                        IsoTime(checkpoint.create_time()), Safe(checkpoint.path())};
      if (wide) cells.push_back(Safe(checkpoint.manifest_digest()));
      table.Add(std::move(cells));
    }
    table.Print(session.terminal());
    return 0;
  }

 private:
  std::string job_;
};

}  // namespace

std::unique_ptr<Verb> MakeCheckpointsVerb() { return std::make_unique<CheckpointsVerb>(); }

}  // namespace nibble::client
