#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"
#include "client/message_text.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

constexpr int kPageSize = 500;

class EventsVerb : public Verb {
 public:
  VerbText text() const override {
    return {"events",
            "What happened to a job, and why",
            "Prints the audit trail, oldest first: every change of state with who caused it, the "
            "reason and a sentence. Without JOB, that of all jobs.",
            "nibble events kjv-nvfp4\n"
            "nibble events --limit 20 -o wide           # the first 20 of all jobs",
            {"table", "wide", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"JOB",
             "",
             "Id, beginning of an id, or name; all jobs without",
             &job_,
             false,
             {},
             Completion::kJob},
            {"--limit", "N", "At most so many events; 0 for all. Default 1000", &limit_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    v1::ListEventsRequest request;
    if (!job_.empty()) {
      NIBBLE_ASSIGN_OR_RETURN(*request.mutable_job_id(), FindJobId(*connection, job_));
    }
    request.set_page_size(kPageSize);
    v1::ListEventsResponse listed;
    do {
      NIBBLE_ASSIGN_OR_RETURN(const v1::ListEventsResponse page, connection->ListEvents(request));
      for (const v1::JobEvent& event : page.events()) {
        if (limit_ == 0 || listed.events_size() < limit_) *listed.add_events() = event;
      }
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty() && (limit_ == 0 || listed.events_size() < limit_));
    if (session.structured()) {
      nlohmann::ordered_json value;
      value["events"] = MessageJson(listed)["events"];
      PrintStructured(session, value);
    } else {
      PrintTable(session, listed);
    }
    return 0;
  }

 private:
  void PrintTable(Session& session, const v1::ListEventsResponse& listed) const {
    // With several jobs each line names its job.
    const bool names = job_.empty() || session.format() == "wide";
    std::vector<Column> columns = {{"TIME"},  {"ATTEMPT", true}, {"ACTOR"},
                                   {"STATE"}, {"REASON"},        {"MESSAGE"}};
    if (names) columns.insert(columns.begin() + 1, {"JOB"});
    Table table(columns);
    for (const v1::JobEvent& event : listed.events()) {
      const std::string before =
          event.before() == v1::JOB_STATE_UNSPECIFIED ? "-" : StateName(event.before());
      std::vector<std::string> cells = {
          IsoTime(event.time()),      absl::StrCat(event.attempt()),
          Safe(event.actor()),        absl::StrCat(before, " > ", StateName(event.after())),
          ReasonName(event.reason()), Safe(event.message())};
      if (names) cells.insert(cells.begin() + 1, Safe(event.job_id()));
      table.Add(std::move(cells));
    }
    table.Print(session.terminal());
  }

  std::string job_;
  int64_t limit_ = 1000;
};

}  // namespace

std::unique_ptr<Verb> MakeEventsVerb() { return std::make_unique<EventsVerb>(); }

}  // namespace nibble::client
