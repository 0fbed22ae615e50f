#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"
#include "client/message_text.h"
#include "client/metric_rows.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

// Columns of a run without --name, in this order; others that the server has follow by name.
const char* const kNames[] = {"loss",
                              "learning_rate",
                              "grad_norm",
                              "step_seconds",
                              "tokens_per_second",
                              "tokens",
                              "validation_loss",
                              "validation_bits_per_byte"};

class MetricsVerb : public Verb {
 public:
  VerbText text() const override {
    return {"metrics",
            "Exact numbers of every step",
            "Prints what the trainer reported, one row a step: loss, learning_rate, grad_norm, "
            "step_seconds, tokens_per_second, tokens (cumulative), and where a validation was made "
            "validation_loss and validation_bits_per_byte. In csv and json every number reads back "
            "to the same double. A step that a later attempt trained again counts once, with the "
            "later values.",
            "nibble metrics kjv-nvfp4 --name loss -o csv > loss.csv\n"
            "nibble metrics kjv-nvfp4 --name validation_loss,validation_bits_per_byte\n"
            "nibble metrics kjv-nvfp4 --from 100 --to 200 -o json\n"
            "nibble metrics kjv-nvfp4 --max-points 50",
            {"table", "csv", "json"}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &job_, true, {}, Completion::kJob},
            {"--name", "NAME", "Only these values, separated by commas; may be repeated", &names_},
            {"--from", "STEP", "First step", &from_},
            {"--to", "STEP", "Last step", &to_},
            {"--max-points", "N", "At most so many rows, evenly spaced", &max_points_},
            {"--include-superseded", "", "Also rows that a later attempt trained again",
             &include_superseded_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(v1::GetMetricsRequest request, Request());
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(*request.mutable_job_id(), FindJobId(*connection, job_));
    std::vector<v1::MetricRow> rows;
    NIBBLE_RETURN_IF_ERROR(ForEachMetricRow(
        *connection, request, [&](const v1::MetricRow& row) { rows.push_back(row); }));
    std::vector<std::string> names = Columns(request, rows);
    if (session.format() == "table" && request.names_size() == 0) HideHealth(session, &names);
    // A step without any of the values asked for (no validation there) is no row.
    if (request.names_size() > 0) {
      rows.erase(std::remove_if(rows.begin(), rows.end(),
                                [&](const v1::MetricRow& row) {
                                  return std::none_of(
                                      names.begin(), names.end(),
                                      [&](const auto& n) { return row.values().contains(n); });
                                }),
                 rows.end());
    }
    if (session.format() == "csv") {
      PrintCsv(session, names, rows);
    } else if (session.format() == "json") {
      PrintJson(session, names, rows);
    } else {
      PrintTable(session, names, rows);
    }
    return 0;
  }

 private:
  absl::StatusOr<v1::GetMetricsRequest> Request() const {
    if (from_ < 0 || to_ < 0) {
      return absl::InvalidArgumentError("--from and --to are steps; allowed: 0 and above");
    }
    if (max_points_ < 0 || max_points_ > 1'000'000) {
      return absl::InvalidArgumentError("--max-points is out of range; allowed: 0 to 1000000");
    }
    v1::GetMetricsRequest request;
    for (const std::string& list : names_) {
      for (const absl::string_view name : absl::StrSplit(list, ',', absl::SkipEmpty())) {
        request.add_names(std::string(name));
      }
    }
    request.set_first_step(from_);
    request.set_last_step(to_);
    request.set_max_points(static_cast<int32_t>(max_points_));
    request.set_include_superseded(include_superseded_);
    return request;
  }

  static std::vector<std::string> Columns(const v1::GetMetricsRequest& request,
                                          const std::vector<v1::MetricRow>& rows) {
    std::vector<std::string> names(request.names().begin(), request.names().end());
    if (!names.empty()) return names;
    std::set<std::string> more;
    for (const v1::MetricRow& row : rows) {
      for (const auto& [name, value] : row.values()) more.insert(name);
    }
    for (const char* name : kNames) {
      names.push_back(name);
      more.erase(name);
    }
    names.insert(names.end(), more.begin(), more.end());
    return names;
  }

  // Hundreds of columns that a table of losses is not asked for.
  static void HideHealth(Session& session, std::vector<std::string>* names) {
    const size_t all = names->size();
    names->erase(
        std::remove_if(names->begin(), names->end(),
                       [](const std::string& name) { return absl::StartsWith(name, "health/"); }),
        names->end());
    if (names->size() == all) return;
    session.err() << all - names->size()
                  << " health values are not shown; see -o csv, or name them with --name\n";
  }

  static void PrintCsv(Session& session, const std::vector<std::string>& names,
                       const std::vector<v1::MetricRow>& rows) {
    session.out() << "step,attempt,rank,time," << Safe(absl::StrJoin(names, ",")) << "\n";
    for (const v1::MetricRow& row : rows) {
      session.out() << row.step() << "," << row.attempt() << "," << row.rank() << ","
                    << ExactTime(row.time());
      for (const std::string& name : names) {
        session.out() << "," << (row.values().contains(name) ? Exact(ValueOf(row, name)) : "");
      }
      session.out() << "\n";
    }
  }

  static void PrintJson(Session& session, const std::vector<std::string>& names,
                        const std::vector<v1::MetricRow>& rows) {
    nlohmann::ordered_json array = nlohmann::ordered_json::array();
    for (const v1::MetricRow& row : rows) {
      nlohmann::ordered_json object = {{"step", row.step()},
                                       {"attempt", row.attempt()},
                                       {"rank", row.rank()},
                                       {"time", ExactTime(row.time())}};
      for (const std::string& name : names) {
        if (!row.values().contains(name)) continue;
        const double value = ValueOf(row, name);
        object[name] = std::isfinite(value) ? nlohmann::ordered_json(value) : nullptr;
      }
      array.push_back(std::move(object));
    }
    session.out() << JsonText(array);
  }

  // Six digits, but counts in full.
  static std::string CellText(double value) {
    const bool whole = value == std::floor(value) && std::fabs(value) < 1e15;
    return whole ? absl::StrCat(static_cast<int64_t>(value)) : absl::StrCat(value);
  }

  static void PrintTable(Session& session, const std::vector<std::string>& names,
                         const std::vector<v1::MetricRow>& rows) {
    std::vector<Column> columns = {{"STEP", true}, {"ATTEMPT", true}};
    for (const std::string& name : names) columns.push_back({Safe(name), true});
    Table table(columns);
    for (const v1::MetricRow& row : rows) {
      std::vector<std::string> cells = {absl::StrCat(row.step()), absl::StrCat(row.attempt())};
      for (const std::string& name : names) {
        cells.push_back(row.values().contains(name) ? CellText(ValueOf(row, name)) : "-");
      }
      table.Add(std::move(cells));
    }
    table.Print(session.terminal());
  }

  std::string job_;
  std::vector<std::string> names_;
  int64_t from_ = 0;
  int64_t to_ = 0;
  int64_t max_points_ = 0;
  bool include_superseded_ = false;
};

}  // namespace

std::unique_ptr<Verb> MakeMetricsVerb() { return std::make_unique<MetricsVerb>(); }

}  // namespace nibble::client
