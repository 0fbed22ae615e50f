#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_view.h"
#include "client/message_text.h"
#include "client/output.h"
#include "client/precision_view.h"
#include "client/spec_file.h"
#include "client/status.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_resolution.h"
#include "proto/spec/spec_document.h"

namespace nibble::client {
namespace {

class ValidateVerb : public Verb {
 public:
  VerbText text() const override {
    return {"validate",
            "Check a spec here and show what it means",
            "Checks a job spec without a daemon and shows what it resolves to: the size of the "
            "model, the work of a step, and for every linear layer and product the formats of both "
            "operands. A wrong spec ends with exit code 2 and every wrong field's path, value and "
            "what is allowed.",
            "nibble validate deploy/examples/kjv-nvfp4.yaml\n"
            "nibble validate job.yaml --set precision.recipe=bf16\n"
            "nibble validate job.yaml -o yaml            # with every default filled in",
            {"table", "wide", "json", "yaml"}};
  }
  std::vector<Option> options() override { return SpecOptions(&source_); }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(const v1::JobSpec spec, ReadSpec(session, source_));
    std::vector<spec::FieldError> errors;
    const absl::StatusOr<spec::ResolvedJob> resolved = spec::ResolveJob(spec, &errors);
    if (!resolved.ok()) {
      if (errors.empty()) return resolved.status();
      return InvalidFields("the spec is not valid", errors);
    }
    if (session.structured()) {
      PrintStructured(session, Structured(*resolved));
      return 0;
    }
    for (const std::string& warning : resolved->warnings) {
      session.err() << "warning: " << Safe(warning) << "\n";
    }
    PrintSummary(session, *resolved);
    if (resolved->total_steps == 0) return 0;  // nothing is quantised
    session.out() << "\n";
    PrintPrecision(session.terminal(), resolved->precision, session.format() == "wide");
    return 0;
  }

 private:
  static nlohmann::ordered_json Structured(const spec::ResolvedJob& job) {
    nlohmann::ordered_json value;
    value["spec"] = MessageJson(job.spec);
    value["parameters"] = job.parameters;
    value["total_steps"] = job.total_steps;
    value["tokens_per_step"] = job.tokens_per_step;
    value["flops_per_token"] = job.flops_per_token;
    value["memory_bytes"] = {{"weights", job.memory.weights},
                             {"gradients", job.memory.gradients},
                             {"optimizer", job.memory.optimizer},
                             {"activations", job.memory.activations},
                             {"total", job.memory.total()}};
    value["warnings"] = job.warnings;
    value["precision"] = MessageJson(job.precision);
    return value;
  }

  static void PrintSummary(Session& session, const spec::ResolvedJob& job) {
    Facts facts;
    facts.Add("name", Safe(job.spec.name()));
    facts.Add("model", ModelText(job.spec, 0));
    facts.Add("parameters", Grouped(job.parameters));
    facts.Add("training", TrainingText(job.spec, job.total_steps));
    const std::string evaluation = EvaluationText(job.spec.evaluation(), job.total_steps);
    if (!evaluation.empty()) facts.Add("evaluation", evaluation);
    if (job.total_steps == 0) {
      facts.Add("memory", absl::StrCat("weights ", Bytes(job.memory.weights)));
      facts.Print(session.terminal());
      return;
    }
    facts.Add("tokens/step", Grouped(job.tokens_per_step));
    facts.Add("FLOPs/token", Short(job.flops_per_token));
    facts.Add("total work",
              absl::StrFormat("%.3g FLOPs", job.flops_per_token *
                                                static_cast<double>(job.tokens_per_step) *
                                                static_cast<double>(job.total_steps)));
    facts.Add("memory",
              absl::StrCat(Bytes(job.memory.total()), ": weights ", Bytes(job.memory.weights),
                           ", gradients ", Bytes(job.memory.gradients), ", moments ",
                           Bytes(job.memory.optimizer), ", activations about ",
                           Bytes(job.memory.activations)));
    facts.Add("data", Safe(DataText(job.spec.data())));
    facts.Add("precision", PrecisionText(job.spec, job.precision));
    facts.Add("policy", Safe(job.precision.digest()));
    facts.Print(session.terminal());
  }

  SpecSource source_;
};

}  // namespace

std::unique_ptr<Verb> MakeValidateVerb() { return std::make_unique<ValidateVerb>(); }

}  // namespace nibble::client
