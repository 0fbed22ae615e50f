#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/comparison.h"
#include "client/job_view.h"
#include "client/output.h"
#include "client/plot.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

constexpr int kMostPoints = 100;
// Rows of the table of gaps, evenly spaced with the last.
constexpr size_t kTableRows = 12;

// Values of TrainingResult.efficiency that are shown side by side.
constexpr std::pair<const char*, const char*> kEfficiencyRows[] = {
    {"peak_memory_bytes", "peak memory, bytes"},
    {"step_seconds_p50", "step, seconds"},
    {"step_seconds_p99", "slowest 1 %, seconds"},
    {"model_flops_utilization", "share of peak FLOP/s"},
    {"tokens_per_joule", "tokens/J"},
    {"weight_bytes_per_parameter", "bytes a weight"}};

nlohmann::ordered_json NumberOrNull(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nullptr;
}

class CompareVerb : public Verb {
 public:
  VerbText text() const override {
    return {
        "compare",
        "Two jobs side by side, and their loss gap",
        "Compares job A with job B, the baseline: final losses, bits per byte and speed, and "
        "the relative gap (A - B) / B of a metric against the tokens trained on, as a table and "
        "a plot. Where the two were not measured at the same tokens, B is interpolated. Jobs "
        "that still run are compared as far as they are.",
        "nibble compare kjv-nvfp4 kjv-bf16\n"
        "nibble compare kjv-nvfp4 kjv-bf16 --name loss\n"
        "nibble compare kjv-nvfp4 kjv-bf16 -o json | jq .final_relative_gap",
        {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"A", "", "Job: id, beginning of an id, or name", &a_, true, {}, Completion::kJob},
            {"B", "", "The job it is measured against", &b_, true, {}, Completion::kJob},
            {"--name", "NAME", "Metric of the gap. Default validation_loss", &metric_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const Reached a, ReadReached(*connection, a_, metric_));
    NIBBLE_ASSIGN_OR_RETURN(const Reached b, ReadReached(*connection, b_, metric_));
    const std::vector<Gap> gaps = Gaps(a.curve, b.curve, kMostPoints);
    if (session.structured()) {
      PrintStructured(session, Structured(a, b, gaps));
      return 0;
    }
    PrintSummary(session, a, b);
    if (gaps.empty()) {
      session.out() << "\nThere is no " << Safe(metric_) << " of both at the same tokens yet.\n";
      return 0;
    }
    PrintGaps(session, gaps);
    PrintPlots(session, gaps);
    return 0;
  }

 private:
  nlohmann::ordered_json Structured(const Reached& a, const Reached& b,
                                    const std::vector<Gap>& gaps) const {
    nlohmann::ordered_json value;
    value["metric"] = metric_;
    value["a"] = StructuredJob(a);
    value["b"] = StructuredJob(b);
    value["final_relative_gap"] =
        gaps.empty() ? NumberOrNull(NAN) : NumberOrNull(gaps.back().relative);
    value["points"] = nlohmann::ordered_json::array();
    for (const Gap& gap : gaps) {
      value["points"].push_back(
          {{"tokens", gap.tokens}, {"a", gap.a}, {"b", gap.b}, {"relative_gap", gap.relative}});
    }
    return value;
  }

  static nlohmann::ordered_json StructuredJob(const Reached& reached) {
    return {{"job_id", reached.job.job_id()},
            {"name", reached.job.spec().name()},
            {"state", StateName(reached.job.state())},
            {"recipe", reached.job.spec().precision().recipe()},
            {"steps", reached.steps},
            {"tokens", NumberOrNull(reached.tokens)},
            {"train_loss", NumberOrNull(reached.train_loss)},
            {"validation_loss", NumberOrNull(reached.validation_loss)},
            {"validation_bits_per_byte", NumberOrNull(reached.validation_bits_per_byte)},
            {"tokens_per_second", NumberOrNull(reached.tokens_per_second)},
            {"digest", reached.job.result().digest()},
            {"efficiency", std::map<std::string, double>(reached.job.result().efficiency().begin(),
                                                         reached.job.result().efficiency().end())}};
  }

  static void PrintSummary(Session& session, const Reached& a, const Reached& b) {
    // Jobs of one name are told apart by their ids.
    const bool same = a.job.spec().name() == b.job.spec().name();
    const auto heading = [same](const Reached& reached) {
      return Safe(same ? reached.job.job_id() : reached.job.spec().name());
    };
    Table table({{""},
                 {absl::StrCat("A ", heading(a)), true},
                 {absl::StrCat("B ", heading(b)), true},
                 {"(A - B) / B", true}});
    table.Add({"state", PaintState(session.terminal(), a.job.state()),
               PaintState(session.terminal(), b.job.state()), ""});
    table.Add({"recipe", Safe(a.job.spec().precision().recipe()),
               Safe(b.job.spec().precision().recipe()), ""});
    table.Add({"steps", Grouped(a.steps), Grouped(b.steps), ""});
    table.Add({"tokens", Short(a.tokens), Short(b.tokens), ""});
    const auto add = [&table](const char* name, double of_a, double of_b, bool losses) {
      table.Add({name, losses ? Loss(of_a) : Short(of_a), losses ? Loss(of_b) : Short(of_b),
                 SignedPercent((of_a - of_b) / of_b)});
    };
    add("train loss", a.train_loss, b.train_loss, /*losses=*/true);
    add("validation loss", a.validation_loss, b.validation_loss, /*losses=*/true);
    add("bits/byte", a.validation_bits_per_byte, b.validation_bits_per_byte, /*losses=*/true);
    add("tokens/s", a.tokens_per_second, b.tokens_per_second, /*losses=*/false);
    for (const auto& [name, heading] : kEfficiencyRows) {
      const double of_a = Measured(a, name), of_b = Measured(b, name);
      if (std::isfinite(of_a) && std::isfinite(of_b)) add(heading, of_a, of_b, /*losses=*/false);
    }
    table.Print(session.terminal());
  }

  static double Measured(const Reached& reached, const char* name) {
    const auto& efficiency = reached.job.result().efficiency();
    const auto found = efficiency.find(name);
    // Short() takes no negative value.
    return found == efficiency.end() || found->second < 0 ? NAN : found->second;
  }

  void PrintGaps(Session& session, const std::vector<Gap>& gaps) const {
    session.out() << "\n" << Paint(session.terminal(), Color::kBold, Safe(metric_)) << "\n";
    Table table({{"TOKENS", true}, {"A", true}, {"B", true}, {"(A - B) / B", true}});
    const size_t rows = std::min(kTableRows, gaps.size());
    for (size_t i = 0; i < rows; ++i) {
      const Gap& gap = gaps[rows == 1 ? gaps.size() - 1 : i * (gaps.size() - 1) / (rows - 1)];
      table.Add({Short(gap.tokens), Loss(gap.a), Loss(gap.b), SignedPercent(gap.relative)});
    }
    table.Print(session.terminal());
  }

  // The metric of both jobs, then their gap.
  void PrintPlots(Session& session, const std::vector<Gap>& gaps) const {
    if (gaps.size() < 2) return;
    Series a{"A", {}, {}, Color::kCyan}, b{"B", {}, {}, Color::kYellow};
    Series gap{"gap", {}, {}, Color::kMagenta};
    for (const Gap& point : gaps) {
      for (Series* series : {&a, &b, &gap}) series->x.push_back(point.tokens);
      a.y.push_back(point.a);
      b.y.push_back(point.b);
      gap.y.push_back(100 * point.relative);
    }
    PrintPlot(session, Safe(metric_), {a, b});
    PrintPlot(session, absl::StrCat("relative gap of ", Safe(metric_), " in %"), {gap});
  }

  void PrintPlot(Session& session, const std::string& title,
                 const std::vector<Series>& series) const {
    const PlotSize size{.columns = std::min(session.terminal().columns - 1, 80), .rows = 8};
    session.out() << "\n"
                  << Paint(session.terminal(), Color::kBold, title) << "\n"
                  << Plot(session.terminal(), series, size, "tokens");
  }

  std::string a_;
  std::string b_;
  std::string metric_ = "validation_loss";
};

}  // namespace

std::unique_ptr<Verb> MakeCompareVerb() { return std::make_unique<CompareVerb>(); }

}  // namespace nibble::client
