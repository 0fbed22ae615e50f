#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"

namespace nibble::client {
namespace {

class ProjectsVerb : public Verb {
 public:
  VerbText text() const override {
    return {"projects",
            "Who shares the slots, and how",
            "Lists the projects of the daemon: their weight, the slots that are theirs before "
            "anyone borrows them, the most they may hold, and what they hold and have used (in "
            "slot-hours, older use counting less).",
            "nibble projects\nnibble projects -o json | jq '.projects[] | {name, slots_held}'",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override { return {}; }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const v1::ListProjectsResponse listed, connection->ListProjects());
    if (session.structured()) {
      PrintStructured(session, listed);
      return 0;
    }
    Table table({{"PROJECT"},
                 {"WEIGHT", true},
                 {"QUOTA", true},
                 {"LIMIT", true},
                 {"HELD", true},
                 {"QUEUED", true},
                 {"UNFINISHED", true},
                 {"USED", true}});
    for (const v1::Project& project : listed.projects()) {
      table.Add({Safe(project.name()), absl::StrFormat("%g", project.weight()),
                 absl::StrCat(project.quota_slots()),
                 project.has_limit_slots() ? absl::StrCat(project.limit_slots()) : "-",
                 absl::StrCat(project.slots_held()), absl::StrCat(project.jobs_queued()),
                 absl::StrCat(project.jobs_unfinished()),
                 absl::StrFormat("%.2f h", project.usage_slot_seconds() / 3600)});
    }
    table.Print(session.terminal());
    return 0;
  }
};

}  // namespace

std::unique_ptr<Verb> MakeProjectsVerb() { return std::make_unique<ProjectsVerb>(); }

}  // namespace nibble::client
