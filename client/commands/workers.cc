#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"

namespace nibble::client {
namespace {

class WorkersVerb : public Verb {
 public:
  VerbText text() const override {
    return {"workers",
            "Workers, their slots and what runs on them",
            "Lists the workers that the daemon knows. UNREACHABLE means not heard of for a lease "
            "term: by itself that ends no job.",
            "nibble workers\nnibble workers -o json | jq '[.workers[].slots] | add'",
            {"table", "wide", "json", "yaml"}};
  }
  std::vector<Option> options() override { return {}; }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const v1::ListWorkersResponse listed, connection->ListWorkers());
    if (session.structured()) {
      PrintStructured(session, listed);
      return 0;
    }
    const bool wide = session.format() == "wide";
    std::vector<Column> columns = {{"WORKER"}, {"HOST"},       {"STATE"}, {"DEVICE"},
                                   {"SLOTS"},  {"SEEN", true}, {"JOBS"}};
    if (wide) columns.insert(columns.end(), {{"VERSION"}, {"DEVICE NAME"}, {"DRAINED BECAUSE"}});
    Table table(columns);
    const int64_t now = session.clock().WallMicros();
    for (const v1::Worker& worker : listed.workers()) {
      std::vector<std::string> cells = {
          Safe(worker.worker_id()),
          Safe(worker.host()),
          absl::StrCat(StateText(session.terminal(), worker.state()),
                       worker.drained() ? ",DRAINED" : ""),
          Safe(worker.device_kind()),
          absl::StrCat(worker.slots_used(), "/", worker.slots()),
          Age(Micros(worker.last_seen_time()), now),
          worker.job_ids().empty() ? "-" : Safe(absl::StrJoin(worker.job_ids(), " "))};
      if (wide) {
        cells.insert(cells.end(),
                     {Safe(worker.version()), Safe(worker.device_name()),
                      worker.drain_reason().empty() ? "-" : Safe(worker.drain_reason())});
      }
      table.Add(std::move(cells));
    }
    table.Print(session.terminal());
    return 0;
  }

 private:
  static std::string StateText(const Terminal& terminal, v1::Worker::State state) {
    return Paint(terminal, state == v1::Worker::ONLINE ? Color::kGreen : Color::kYellow,
                 v1::Worker::State_Name(state));
  }
};

}  // namespace

std::unique_ptr<Verb> MakeWorkersVerb() { return std::make_unique<WorkersVerb>(); }

}  // namespace nibble::client
