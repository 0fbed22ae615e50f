#include "client/scores.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "client/metric_rows.h"
#include "client/table.h"
#include "client/text.h"

namespace nibble::client {

absl::StatusOr<Scores> ReadScores(Connection& connection, const v1::Job& job) {
  Scores scores;
  const int64_t interval = job.spec().evaluation().interval();
  const bool at_end = job.step() >= job.total_steps();
  scores.step = at_end ? job.step() : interval > 0 ? job.step() - job.step() % interval : 0;
  if (job.spec().evaluation().tasks().empty() || (scores.step == 0 && !at_end)) return scores;
  v1::GetMetricsRequest request;
  request.set_job_id(job.job_id());
  request.set_first_step(scores.step);
  request.set_last_step(scores.step);
  NIBBLE_RETURN_IF_ERROR(ForEachMetricRow(connection, request, [&](const v1::MetricRow& row) {
    for (const auto& [name, value] : row.values()) {
      absl::string_view rest = name;
      if (absl::ConsumePrefix(&rest, "eval/")) scores.values[std::string(rest)] = value;
    }
  }));
  return scores;
}

void PrintScores(Session& session, const Scores& scores) {
  if (scores.values.empty()) return;
  session.out() << "\nscores" << (scores.step > 0 ? absl::StrCat(" after step ", scores.step) : "")
                << ":\n\n";
  Table table({{"TASK, METRIC"}, {"VALUE", true}});
  for (const auto& [name, value] : scores.values) {
    table.Add({Safe(name), absl::StrFormat("%.4f", value)});
  }
  table.Print(session.terminal());
}

}  // namespace nibble::client
