#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"
#include "client/job_view.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"

namespace nibble::client {
namespace {

class ExplainVerb : public Verb {
 public:
  VerbText text() const override {
    return {"explain",
            "Why a job waits, and what led to where it is",
            "Says what stands in the way of a job that waits, the first obstacle first, who holds "
            "the slots that it could use, and when it starts where that can be foretold. For every "
            "job: the changes that led to its state, with who and what caused them.",
            "nibble explain kjv-nvfp4\nnibble explain kjv-nvfp4 -o json | jq -r '.reasons[0].code'",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &job_, true, {}, Completion::kJob}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const std::string job_id, FindJobId(*connection, job_));
    NIBBLE_ASSIGN_OR_RETURN(const v1::ExplainJobResponse why, connection->ExplainJob(job_id));
    if (session.structured()) {
      PrintStructured(session, why);
      return 0;
    }
    PrintHead(session, why);
    PrintHolders(session, why);
    PrintCauses(session, why);
    return 0;
  }

 private:
  static void PrintHead(Session& session, const v1::ExplainJobResponse& why) {
    Facts facts;
    facts.Add("job", absl::StrCat(Safe(why.job().job_id()), "  ", Safe(why.job().spec().name())));
    facts.Add("state", absl::StrCat(PaintState(session.terminal(), why.job().state()), "  ",
                                    Safe(why.job().reason_message())));
    if (why.has_predicted_start()) facts.Add("starts by", IsoTime(why.predicted_start()));
    facts.Print(session.terminal());
    if (why.reasons().empty()) return;
    session.out() << "\nwhat stands in the way\n";
    Table table({{"CODE"}, {"WHY"}});
    for (const v1::BlockingReason& reason : why.reasons()) {
      table.Add({v1::BlockingReason::Code_Name(reason.code()), Safe(reason.message())});
    }
    table.Print(session.terminal());
  }

  static void PrintHolders(Session& session, const v1::ExplainJobResponse& why) {
    if (why.holders().empty()) return;
    session.out() << "\nwho holds the slots\n";
    Table table({{"JOB"}, {"PROJECT"}, {"WORKER"}, {"SLOTS", true}, {"ENDS BY"}});
    for (const v1::SlotHolder& holder : why.holders()) {
      table.Add({Safe(holder.job_id()), Safe(holder.project()), Safe(holder.worker_id()),
                 absl::StrCat(holder.slots()),
                 holder.has_end_time() ? IsoTime(holder.end_time()) : "-"});
    }
    table.Print(session.terminal());
  }

  static void PrintCauses(Session& session, const v1::ExplainJobResponse& why) {
    session.out() << "\nhow it came here\n";
    Table table({{"TIME"}, {"ACTOR"}, {"STATE"}, {"REASON"}, {"CAUSE"}, {"MESSAGE"}});
    for (const v1::JobEvent& event : why.causes()) {
      table.Add({IsoTime(event.time()), Safe(event.actor()), StateName(event.after()),
                 ReasonName(event.reason()), event.cause().empty() ? "-" : Safe(event.cause()),
                 Safe(event.message())});
    }
    table.Print(session.terminal());
  }

  std::string job_;
};

}  // namespace

std::unique_ptr<Verb> MakeExplainVerb() { return std::make_unique<ExplainVerb>(); }

}  // namespace nibble::client
