#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"
#include "client/job_view.h"
#include "client/message_text.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

class ListVerb : public Verb {
 public:
  VerbText text() const override {
    return {
        "list",
        "Jobs, newest first",
        "Lists jobs, newest first: all of them, or those in a state, with a name, or with "
        "labels. Fetches page after page until --limit. -o wide adds why a job is in its state, "
        "where it runs and what it reached.",
        "nibble list                                # the newest 50\n"
        "nibble list --state running --state queued\n"
        "nibble list --label team=nlp --limit 0     # all with this label\n"
        "nibble list -o json | jq -r '.jobs[].job_id'",
        {"table", "wide", "json", "yaml"}};
  }

  std::vector<Option> options() override {
    return {{"--state", "STATE", "Only in this state, e.g. running; may be repeated", &states_},
            {"--name", "NAME", "Only with exactly this name", &name_},
            {"--label", "KEY=VALUE", "Only with this label; may be repeated", &labels_},
            {"--limit", "N", "At most so many jobs; 0 for all. Default 50", &limit_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(const v1::ListJobsRequest request, Request());
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    v1::ListJobsResponse listed;
    NIBBLE_RETURN_IF_ERROR(ForEachJob(*connection, request, [&](const v1::Job& job) {
      *listed.add_jobs() = job;
      // Kept rows of the precision table would be most of a long list, and no table shows them.
      if (!session.structured()) listed.mutable_jobs()->rbegin()->clear_precision();
      return limit_ == 0 || listed.jobs_size() < limit_;
    }));
    if (session.structured()) {
      nlohmann::ordered_json value;
      value["jobs"] = MessageJson(listed)["jobs"];
      PrintStructured(session, value);
    } else {
      PrintTable(session, listed);
    }
    return 0;
  }

 private:
  absl::StatusOr<v1::ListJobsRequest> Request() const {
    v1::ListJobsRequest request;
    request.set_name(name_);
    for (const std::string& text : states_) {
      v1::JobState state;
      if (!v1::JobState_Parse(absl::AsciiStrToUpper(text), &state) ||
          state == v1::JOB_STATE_UNSPECIFIED) {
        return absl::InvalidArgumentError(absl::StrCat(
            "--state is \"", text, "\"; allowed: queued, starting, running, pausing, paused, ",
            "stopping, succeeded, failed, cancelled"));
      }
      request.add_states(state);
    }
    for (const std::string& label : labels_) {
      const size_t equals = label.find('=');
      if (equals == std::string::npos || equals == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("--label is \"", label, "\"; allowed: KEY=VALUE"));
      }
      (*request.mutable_labels())[label.substr(0, equals)] = label.substr(equals + 1);
    }
    if (limit_ < 0) {
      return absl::InvalidArgumentError("--limit is negative; allowed: 0 (all) and above");
    }
    if (limit_ > 0 && limit_ < 200) request.set_page_size(static_cast<int>(limit_));
    return request;
  }

  void PrintTable(Session& session, const v1::ListJobsResponse& listed) const {
    const bool wide = session.format() == "wide";
    std::vector<Column> columns = {{"JOB"},      {"NAME"},           {"STATE"},
                                   {"PROGRESS"}, {"PRIORITY", true}, {"AGE", true}};
    if (wide) {
      for (const Column& column : {Column{"RECIPE"},
                                   {"PARAMETERS", true},
                                   {"WORKER"},
                                   {"ATTEMPT", true},
                                   {"FAILURES", true},
                                   {"BITS/BYTE", true},
                                   {"TOKENS/S", true},
                                   {"CREATED"},
                                   {"REASON"}}) {
        columns.push_back(column);
      }
    }
    Table table(columns);
    const int64_t now = session.clock().WallMicros();
    for (const v1::Job& job : listed.jobs()) {
      std::vector<std::string> cells = {Safe(job.job_id()),
                                        Safe(job.spec().name()),
                                        PaintState(session.terminal(), job.state()),
                                        ProgressText(job),
                                        absl::StrCat(job.spec().priority()),
                                        Age(Micros(job.create_time()), now)};
      if (wide) {
        const v1::TrainingResult& result = job.result();
        const bool validated = result.validation_bits_per_byte() != 0;
        cells.insert(
            cells.end(),
            {Safe(job.spec().precision().recipe()), Short(static_cast<double>(job.parameters())),
             job.worker_id().empty() ? "-" : Safe(job.worker_id()), absl::StrCat(job.attempt()),
             absl::StrCat(job.failures()),
             validated ? absl::StrFormat("%.4f", result.validation_bits_per_byte()) : "-",
             job.has_result() ? Short(result.tokens_per_second()) : "-", IsoTime(job.create_time()),
             ReasonName(job.reason())});
      }
      table.Add(std::move(cells));
    }
    table.Print(session.terminal());
  }

  std::vector<std::string> states_;
  std::string name_;
  std::vector<std::string> labels_;
  int64_t limit_ = 50;
};

}  // namespace

std::unique_ptr<Verb> MakeListVerb() { return std::make_unique<ListVerb>(); }

}  // namespace nibble::client
