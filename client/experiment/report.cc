#include "client/experiment/report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "client/experiment/plan.h"
#include "client/job_reference.h"
#include "client/job_view.h"
#include "client/output.h"
#include "client/plot.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

constexpr char kMetric[] = "validation_loss";
constexpr int kTablePoints = 4;
constexpr int kPlotPoints = 20;

std::string Label(const v1::Job& job, const char* key) {
  const auto found = job.spec().labels().find(key);
  return found != job.spec().labels().end() ? found->second : "";
}

nlohmann::ordered_json Number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nullptr;
}

nlohmann::ordered_json StatisticsJson(const SeedStatistics& statistics) {
  return {{"seeds", statistics.count},
          {"mean", Number(statistics.mean)},
          {"deviation", Number(statistics.deviation)},
          {"half_width_95", Number(statistics.half_width)},
          {"exceeds_noise", statistics.ExceedsNoise()}};
}

GapTable TableOf(const ExperimentReport& report, int points) {
  return MakeGapTable(report.curves, report.order, report.baseline, kRecipeVariant, report.end,
                      points);
}

void PrintJson(Session& session, const ExperimentReport& report) {
  const GapTable table = TableOf(report, kPlotPoints);
  nlohmann::ordered_json value;
  value["experiment"] = report.group;
  value["baseline"] = report.baseline;
  value["metric"] = kMetric;
  value["tokens"] = report.end;
  value["jobs"] = report.jobs.size();
  value["succeeded"] = report.Succeeded();
  value["variants"] = nlohmann::ordered_json::array();
  for (const GapRow& row : table.rows) {
    nlohmann::ordered_json points = nlohmann::ordered_json::array();
    for (const GapPoint& point : row.points) {
      points.push_back({{"tokens", point.tokens}, {"gap", StatisticsJson(point.gap)}});
    }
    nlohmann::ordered_json seeds = nlohmann::ordered_json::array();
    for (const auto& [seed, curve] : report.curves.at(row.variant)) {
      seeds.push_back({{"seed", seed}, {"tokens", curve.tokens}, {kMetric, curve.values}});
    }
    value["variants"].push_back({{"variant", row.variant},
                                 {"loss", StatisticsJson(row.loss)},
                                 {"relative_gap", points},
                                 {"against_recipe", StatisticsJson(row.against_recipe)},
                                 {"runs", seeds}});
  }
  PrintStructured(session, value);
}

std::string Marked(const SeedStatistics& statistics) {
  if (statistics.count == 0) return "-";
  return absl::StrCat(SignedPercent(statistics.mean), statistics.ExceedsNoise() ? " *" : "  ");
}

std::string Interval(const SeedStatistics& statistics) {
  if (statistics.count < 2) return Marked(statistics);
  return absl::StrFormat("%s ± %.2f%s", absl::StripSuffix(SignedPercent(statistics.mean), " %"),
                         100 * statistics.half_width, statistics.ExceedsNoise() ? " *" : "  ");
}

void PrintHead(Session& session, const ExperimentReport& report) {
  const v1::Job& first = report.jobs.front();
  session.out() << Paint(session.terminal(), Color::kBold,
                         absl::StrCat("Experiment ", Safe(report.group)))
                << ": " << ModelText(first.spec(), first.parameters()) << "; " << Short(report.end)
                << " tokens; " << report.Succeeded() << " of " << report.jobs.size()
                << " jobs succeeded\n\n";
}

void PrintGapTable(Session& session, const ExperimentReport& report, const GapTable& gaps) {
  const int blocks = report.jobs.front().spec().model().blocks();
  std::vector<Column> columns = {{"VARIANT"}, {"SEEDS", true}, {"LOSS", true}};
  for (const double tokens : gaps.tokens) columns.push_back({absl::StrCat(Short(tokens)), true});
  for (const Column& column :
       {Column{"SD OF SEEDS", true}, {absl::StrCat("AGAINST ", kRecipeVariant), true}, {"WHAT"}}) {
    columns.push_back(column);
  }
  Table table(columns);
  for (const GapRow& row : gaps.rows) {
    const bool baseline = row.variant == gaps.baseline;
    std::vector<std::string> cells = {Safe(row.variant), absl::StrCat(row.loss.count),
                                      Loss(row.loss.mean)};
    for (size_t i = 0; i < gaps.tokens.size(); ++i) {
      if (baseline) {
        cells.push_back("");
      } else if (i + 1 < gaps.tokens.size()) {
        cells.push_back(row.points[i].gap.count > 0 ? SignedPercent(row.points[i].gap.mean) : "-");
      } else {
        cells.push_back(Interval(row.points[i].gap));
      }
    }
    const double deviation = baseline ? NAN : row.points.back().gap.deviation;
    cells.push_back(std::isfinite(deviation) ? absl::StrFormat("%.2f %%", 100 * deviation) : "");
    cells.push_back(row.against_recipe.count > 0 && !baseline ? Interval(row.against_recipe) : "");
    cells.push_back(
        absl::StrCat(VariantSummary(row.variant, blocks), baseline ? " (baseline)" : ""));
    table.Add(std::move(cells));
  }
  table.Print(session.terminal());
  session.out()
      << "\nRelative gap of the validation loss to " << Safe(gaps.baseline)
      << " by tokens, in %, mean over runs paired by seed; ± is the 95 % interval of the "
         "mean.\n* the interval excludes zero; without it the gap is within seed noise.\n";
}

// The recipe beside the best and the worst of the others: more lines cannot be told apart.
std::vector<const GapRow*> RowsToPlot(const GapTable& gaps) {
  std::vector<const GapRow*> others, plotted;
  for (const GapRow& row : gaps.rows) {
    if (row.points.empty() || row.points.back().gap.count == 0) continue;
    (row.variant == kRecipeVariant ? plotted : others).push_back(&row);
  }
  const auto [least, most] =
      std::minmax_element(others.begin(), others.end(), [](const GapRow* a, const GapRow* b) {
        return a->points.back().gap.mean < b->points.back().gap.mean;
      });
  if (least != others.end()) plotted.push_back(*least);
  if (most != others.end() && most != least) plotted.push_back(*most);
  return plotted;
}

void PrintGapPlot(Session& session, const ExperimentReport& report) {
  const GapTable gaps = TableOf(report, kPlotPoints);
  constexpr Color kColors[] = {Color::kCyan, Color::kYellow, Color::kMagenta};
  std::vector<Series> lines;
  for (const GapRow* row : RowsToPlot(gaps)) {
    Series line{.label = Safe(row->variant), .color = kColors[lines.size()]};
    for (const GapPoint& point : row->points) {
      line.x.push_back(point.tokens);
      line.y.push_back(100 * point.gap.mean);
    }
    lines.push_back(std::move(line));
  }
  if (lines.empty()) return;
  const PlotSize size{.columns = std::min(session.terminal().columns - 1, 80), .rows = 10};
  session.out() << "\n"
                << Paint(session.terminal(), Color::kBold,
                         absl::StrCat("gap to ", Safe(report.baseline), " in %"))
                << "\n"
                << Plot(session.terminal(), lines, size, "tokens");
}

}  // namespace

absl::StatusOr<std::vector<v1::Job>> ReadGroup(Connection& connection, const std::string& group) {
  v1::ListJobsRequest request;
  (*request.mutable_labels())[kExperimentLabel] = group;
  std::vector<v1::Job> jobs;
  NIBBLE_RETURN_IF_ERROR(ForEachJob(connection, request, [&](const v1::Job& job) {
    jobs.push_back(job);
    jobs.back().clear_precision();
    return true;
  }));
  if (jobs.empty()) {
    return absl::NotFoundError(absl::StrCat("no job has the label ", kExperimentLabel, "=", group));
  }
  std::reverse(jobs.begin(), jobs.end());
  return jobs;
}

int ExperimentReport::Succeeded() const {
  return static_cast<int>(std::count_if(
      jobs.begin(), jobs.end(), [](const v1::Job& job) { return job.state() == v1::SUCCEEDED; }));
}

std::vector<std::string> ExperimentReport::Broken() const {
  std::vector<std::string> names;
  for (const v1::Job& job : jobs) {
    if (job.state() == v1::FAILED || job.state() == v1::CANCELLED) {
      names.push_back(job.spec().name());
    }
  }
  return names;
}

absl::StatusOr<ExperimentReport> ReadExperiment(Connection& connection, const std::string& group) {
  ExperimentReport report{.group = group};
  NIBBLE_ASSIGN_OR_RETURN(report.jobs, ReadGroup(connection, group));
  for (const v1::Job& job : report.jobs) {
    const std::string variant = Label(job, kVariantLabel);
    if (report.baseline.empty()) report.baseline = Label(job, kBaselineLabel);
    if (std::find(report.order.begin(), report.order.end(), variant) == report.order.end()) {
      report.order.push_back(variant);
    }
    const auto& training = job.spec().training();
    report.end = std::max(
        report.end, double(job.total_steps()) * training.batch_size() * training.sequence_length());
    NIBBLE_ASSIGN_OR_RETURN(Curve curve, ReadCurve(connection, job.job_id(), kMetric));
    if (!curve.tokens.empty()) report.curves[variant][job.spec().seed()] = std::move(curve);
  }
  return report;
}

void PrintReport(Session& session, const ExperimentReport& report) {
  if (session.structured()) {
    PrintJson(session, report);
    return;
  }
  PrintHead(session, report);
  if (report.curves.empty()) {
    session.out() << "No validation loss yet.\n";
    return;
  }
  PrintGapTable(session, report, TableOf(report, kTablePoints));
  PrintGapPlot(session, report);
  const std::vector<std::string> broken = report.Broken();
  if (!broken.empty()) {
    session.out() << "\nWithout a result: " << Safe(absl::StrJoin(broken, ", ")) << "\n";
  }
}

}  // namespace nibble::client
