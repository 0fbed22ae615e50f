#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/output.h"
#include "client/text.h"

namespace nibble::client {
namespace {

class BackupVerb : public Verb {
 public:
  VerbText text() const override {
    return {"backup",
            "Copy the daemon's databases while it serves",
            "Makes a consistent copy of jobs.db and metrics.db below the daemon's state directory, "
            "in backups/NAME, and prints where. Checkpoints lie with the workers and are not part "
            "of it.",
            "nibble backup before-upgrade",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"NAME", "", "Of the copy: a-z, 0-9 and -", &name_, true}};
  }
  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const v1::BackupStateResponse copy, connection->BackupState(name_));
    if (session.structured()) {
      PrintStructured(session, copy);
    } else {
      session.out() << Safe(copy.path()) << " " << Grouped(copy.size_bytes()) << " bytes"
                    << std::endl;
    }
    return 0;
  }

 private:
  std::string name_;
};

}  // namespace

std::unique_ptr<Verb> MakeBackupVerb() { return std::make_unique<BackupVerb>(); }

}  // namespace nibble::client
