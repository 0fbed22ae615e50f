// Experiments: a baseline and variants of one training run, each with several seeds, as a group of
// ordinary jobs that labels tie together.
#ifndef CLIENT_EXPERIMENT_PLAN_H_
#define CLIENT_EXPERIMENT_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nibble/v1/job.pb.h"

namespace nibble::client {

// Labels of an experiment's jobs.
inline constexpr char kExperimentLabel[] = "experiment";
inline constexpr char kVariantLabel[] = "experiment.variant";
inline constexpr char kBaselineLabel[] = "experiment.baseline";

// One row of the comparison: the base spec with these changes ("precision.recipe=nvfp4", as --set
// takes them).
struct Variant {
  std::string name;     // an RFC 1123 label
  std::string summary;  // what it differs in, a few words
  std::vector<std::string> changes;
};

// The comparison and ablations of arXiv 2509.25149 for a model of `blocks` blocks, the recipe first
// of all and its summaries relative to it. The baseline is not among them.
std::vector<Variant> PaperVariants(int blocks);
// What they are measured against: "bf16", or the paper's own "fp8-blockwise".
std::vector<Variant> PaperBaselines();
// The row that ablations are measured against.
inline constexpr char kRecipeVariant[] = "nvfp4";

// What a variant is, for reports; empty where no experiment of this program has it.
std::string VariantSummary(const std::string& name, int blocks);

struct ExperimentOptions {
  std::string group;  // value of kExperimentLabel; jobs are called <group>-<variant>-s<seed>
  v1::JobSpec base;   // may leave open what ResolveJob fills in
  std::string baseline = "bf16";
  std::vector<std::string> variants;  // names; empty for all
  int64_t seeds = 3;                  // seed of the base and those after it
};

struct PlannedJob {
  std::string variant;
  uint64_t seed = 0;
  // The same for the same group, variant and seed: submitting again finds the job.
  std::string request_id;
  v1::JobSpec spec;
};

// Every job of the experiment, seed by seed, so that first results come early. Where the base has
// no validation interval, twenty validations are spread over the run.
// INVALID_ARGUMENT: the base or a variant of it is not a valid job, with the fields in the details;
// no such variant or baseline; a group name that makes no job name.
absl::StatusOr<std::vector<PlannedJob>> PlanPaperExperiment(const ExperimentOptions& options);

}  // namespace nibble::client

#endif  // CLIENT_EXPERIMENT_PLAN_H_
