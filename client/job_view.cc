#include "client/job_view.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/message_text.h"
#include "client/output.h"
#include "client/precision_view.h"
#include "client/text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

std::string TimeText(const google::protobuf::Timestamp& time, int64_t now_micros) {
  if (time.seconds() == 0) return "";
  return absl::StrCat(IsoTime(time), "  (", Age(Micros(time), now_micros), " ago)");
}

std::string StateText(const Terminal& terminal, const v1::Job& job) {
  std::string text = PaintState(terminal, job.state());
  if (job.reason() != v1::JOB_REASON_UNSPECIFIED) {
    absl::StrAppend(&text, "  ", ReasonName(job.reason()));
  }
  if (!job.reason_message().empty()) absl::StrAppend(&text, ": ", Safe(job.reason_message()));
  return text;
}

std::string AttemptText(const v1::Job& job) {
  if (job.attempt() == 0) return "none yet";
  std::string text = absl::StrCat(job.attempt());
  if (!job.worker_id().empty()) absl::StrAppend(&text, " on ", Safe(job.worker_id()));
  if (job.failures() > 0) {
    absl::StrAppend(&text, "; ", job.failures(), " failed of ", job.spec().restart().max_failures(),
                    " allowed, last: ", v1::FailureClass_Name(job.last_failure()));
  }
  return text;
}

// How long it waited and ran, as far as it came.
std::string TimingText(const v1::Job& job, int64_t now_micros) {
  if (!job.has_create_time()) return "";
  const bool ended = job.has_end_time();
  const int64_t end = ended ? Micros(job.end_time()) : now_micros;
  const int64_t created = Micros(job.create_time());
  if (!job.has_start_time()) {
    return absl::StrCat("waited ", Duration((end - created) * 1e-6), ended ? "" : " so far");
  }
  const int64_t started = Micros(job.start_time());
  return absl::StrCat("waited ", Duration((started - created) * 1e-6), ", ran ",
                      Duration((end - started) * 1e-6), ended ? "" : " so far");
}

// A value of TrainingResult.efficiency; NaN where it was not measured.
double Measured(const v1::TrainingResult& result, const char* name) {
  const auto found = result.efficiency().find(name);
  return found == result.efficiency().end() ? NAN : found->second;
}

std::string BytesText(double bytes) {
  return bytes >= 0 && bytes < 1e18 ? Bytes(static_cast<int64_t>(bytes)) : "?";
}

void AddEfficiency(const v1::TrainingResult& result, Facts* facts) {
  const double memory = Measured(result, "peak_memory_bytes");
  if (std::isfinite(memory)) {
    facts->Add("memory",
               absl::StrFormat("%s at most, %s planned, %.1f bytes a parameter", BytesText(memory),
                               BytesText(Measured(result, "planned_memory_bytes")),
                               Measured(result, "planned_bytes_per_parameter")));
  }
  const double p50 = Measured(result, "step_seconds_p50");
  if (std::isfinite(p50)) {
    facts->Add("step time", absl::StrFormat("median %.3g s, 95 %% %.3g s, 99 %% %.3g s", p50,
                                            Measured(result, "step_seconds_p95"),
                                            Measured(result, "step_seconds_p99")));
  }
  const double utilization = Measured(result, "model_flops_utilization");
  if (std::isfinite(utilization)) {
    facts->Add("compute", absl::StrFormat("%.0f %% of %s FLOP/s measured", 100 * utilization,
                                          Short(Measured(result, "measured_peak_flops"))));
  }
  const double joules = Measured(result, "energy_joules");
  if (std::isfinite(joules)) {
    facts->Add("energy", absl::StrFormat("%s J, %.1f tokens/J", Short(joules),
                                         Measured(result, "tokens_per_joule")));
  }
}

void AddResult(const v1::TrainingResult& result, Facts* facts) {
  if (result.steps() == 0) return facts->Add("digest", Safe(result.digest()));  // only scored
  facts->Add("train loss", Loss(result.train_loss()));
  if (result.validation_loss() != 0) {
    facts->Add("validation", absl::StrFormat("loss %.4f, %.4f bits/byte", result.validation_loss(),
                                             result.validation_bits_per_byte()));
  }
  facts->Add("speed", absl::StrCat(Short(result.tokens_per_second()), " tokens/s"));
  AddEfficiency(result, facts);
  facts->Add("digest", Safe(result.digest()));
}

}  // namespace

std::string PaintState(const Terminal& terminal, v1::JobState state) {
  Color color = Color::kDefault;
  if (state == v1::SUCCEEDED) color = Color::kGreen;
  if (state == v1::RUNNING || state == v1::STARTING) color = Color::kCyan;
  if (state == v1::PAUSING || state == v1::PAUSED || state == v1::STOPPING) color = Color::kYellow;
  if (state == v1::FAILED) color = Color::kRed;
  if (state == v1::CANCELLED) color = Color::kDim;
  return Paint(terminal, color, StateName(state));
}

std::string ProgressText(const v1::Job& job) {
  if (job.total_steps() <= 0) return "-";
  return absl::StrFormat(
      "%d/%d (%.0f %%)", job.step(), job.total_steps(),
      100.0 * static_cast<double>(job.step()) / static_cast<double>(job.total_steps()));
}

std::string ModelText(const v1::JobSpec& spec, int64_t parameters) {
  const v1::ModelSpec& model = spec.model();
  std::string text = absl::StrCat(
      Safe(model.family()), model.preset().empty() ? "" : absl::StrCat(" ", Safe(model.preset())),
      ", ", model.blocks(), " blocks, width ", model.width());
  if (!model.pattern().empty()) absl::StrAppend(&text, ", ", Safe(model.pattern()));
  if (model.mlp_width() > 0) absl::StrAppend(&text, ", MLP ", model.mlp_width());
  if (model.heads() > 0) {
    absl::StrAppend(&text, ", ", model.heads(), " heads");
    if (model.kv_heads() != model.heads()) absl::StrAppend(&text, " (", model.kv_heads(), " KV)");
    absl::StrAppend(&text, " of ", model.head_size());
  }
  absl::StrAppend(&text, ", vocabulary ", Grouped(model.vocab_size()),
                  model.tied_embeddings() ? ", tied" : "");
  if (parameters > 0)
    absl::StrAppend(&text, "; ", Short(static_cast<double>(parameters)), " parameters");
  return text;
}

std::string TrainingText(const v1::JobSpec& spec, int64_t total_steps) {
  const v1::TrainingSpec& training = spec.training();
  if (total_steps == 0) {
    return absl::StrCat("none: scores the checkpoint ", Safe(training.init_from()));
  }
  const int64_t step_tokens =
      static_cast<int64_t>(training.batch_size()) * training.sequence_length();
  std::string text = absl::StrCat(Grouped(total_steps), " steps of ", training.batch_size(), " x ",
                                  training.sequence_length(), " tokens");
  // Asked of the server's numbers, which need not be sane.
  int64_t total = 0;
  if (!__builtin_mul_overflow(total_steps, step_tokens, &total)) {
    absl::StrAppend(&text, ", ", Short(static_cast<double>(total)), " tokens in all");
  }
  return text;
}

std::string EvaluationText(const v1::EvaluationSpec& evaluation, int64_t total_steps) {
  if (evaluation.tasks().empty()) return "";
  std::vector<std::string> names;
  for (const v1::EvaluationTaskSpec& task : evaluation.tasks()) names.push_back(Safe(task.name()));
  std::string text = absl::StrJoin(names, ", ");
  if (total_steps == 0) return text;
  if (evaluation.interval() > 0) {
    absl::StrAppend(&text, " after every ", Grouped(evaluation.interval()), " steps and");
  }
  return absl::StrCat(text, " at the end");
}

std::string PrecisionText(const v1::JobSpec& spec, const v1::ResolvedPrecision& precision) {
  int quantised = 0;
  for (const v1::LinearPrecision& linear : precision.linears()) {
    const auto quantises = [](const v1::ProductPrecision& product) {
      for (const v1::OperandPrecision* operand : {&product.first(), &product.second()}) {
        if (operand->format() != v1::BF16 && operand->format() != v1::FP32) return true;
      }
      return false;
    };
    if (quantises(linear.fprop()) || quantises(linear.dgrad()) || quantises(linear.wgrad())) {
      ++quantised;
    }
  }
  std::string text = Safe(spec.precision().recipe());
  if (quantised > 0) {
    absl::StrAppend(&text, ": ", quantised, " of ", precision.linears_size(),
                    " linear layers quantised");
  }
  for (const v1::PrecisionPhase& later : precision.later()) {
    absl::StrAppend(&text, "; ", later.linears_size(), " change at step ", later.first_step() + 1);
  }
  return text;
}

void PrintJob(Session& session, const v1::Job& job) {
  const Terminal& terminal = session.terminal();
  const int64_t now = session.clock().WallMicros();
  Facts facts;
  facts.Add("job", Safe(job.job_id()));
  facts.Add("name", Safe(job.spec().name()));
  std::vector<std::string> labels;
  for (const auto& [key, value] : job.spec().labels())
    labels.push_back(absl::StrCat(key, "=", value));
  std::sort(labels.begin(), labels.end());
  facts.Add("labels", Safe(absl::StrJoin(labels, ", ")));
  facts.Add("state", StateText(terminal, job));
  facts.Add("progress", ProgressText(job));
  facts.Add("attempt", AttemptText(job));
  facts.Add("model", ModelText(job.spec(), job.parameters()));
  facts.Add("data", Safe(DataText(job.spec().data())));
  facts.Add("training", TrainingText(job.spec(), job.total_steps()));
  const std::string evaluation = EvaluationText(job.spec().evaluation(), job.total_steps());
  if (!evaluation.empty()) facts.Add("evaluation", evaluation);
  facts.Add("precision", PrecisionText(job.spec(), job.precision()));
  if (job.spec().priority() != 0) facts.Add("priority", absl::StrCat(job.spec().priority()));
  facts.Add("created", TimeText(job.create_time(), now));
  facts.Add("started", TimeText(job.start_time(), now));
  facts.Add("ended", TimeText(job.end_time(), now));
  facts.Add("time", TimingText(job, now));
  if (job.has_result()) AddResult(job.result(), &facts);
  facts.Print(terminal);
  if (session.format() != "wide") return;
  session.out() << "\n";
  PrintPrecision(terminal, job.precision(), /*rows_only=*/true);
}

void ShowJob(Session& session, const v1::Job& job, const Scores& scores) {
  if (!session.structured()) {
    PrintJob(session, job);
    PrintScores(session, scores);
    return;
  }
  nlohmann::ordered_json json = MessageJson(job);
  if (!scores.values.empty()) {
    json["evaluation"] = {{"step", scores.step}, {"scores", scores.values}};
  }
  PrintStructured(session, json);
}

std::string DataText(const v1::DataSpec& data) {
  std::vector<std::string> phases;
  const auto add = [&phases](const auto& sources) {
    double total = 0;
    for (const v1::DataSourceSpec& source : sources) total += source.weight();
    std::vector<std::string> parts;
    for (const v1::DataSourceSpec& source : sources) {
      parts.push_back(sources.size() == 1
                          ? source.path()
                          : absl::StrFormat("%s %.3g %%", source.path(),
                                            total > 0 ? 100 * source.weight() / total : 0));
    }
    phases.push_back(absl::StrJoin(parts, " + "));
  };
  if (data.sources_size() > 0) add(data.sources());
  for (const v1::DataPhaseSpec& phase : data.phases()) {
    add(phase.sources());
    phases.back() = absl::StrFormat("%.3g %% of the run: %s", 100 * phase.share(), phases.back());
  }
  if (phases.empty()) phases.push_back(data.path());
  return absl::StrCat(absl::StrJoin(phases, "; "), data.documents() == "join" ? "" : ", documents ",
                      data.documents() == "join" ? "" : data.documents());
}

}  // namespace nibble::client
