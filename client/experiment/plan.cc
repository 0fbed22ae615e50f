#include "client/experiment/plan.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "client/spec_file.h"
#include "client/status.h"
#include "proto/spec/job_resolution.h"

namespace nibble::client {
namespace {

// Validations of a run that names no interval: five for each quarter of the table.
constexpr int64_t kValidations = 20;
constexpr int64_t kMostSeeds = 100;

// Blocks that the recipe keeps in BF16: about 15 %.
int HighPrecisionBlocks(int blocks) { return static_cast<int>(std::ceil(0.15 * blocks)); }

const Variant* Find(const std::vector<Variant>& variants, const std::string& name) {
  const auto found = std::find_if(variants.begin(), variants.end(),
                                  [&](const Variant& variant) { return variant.name == name; });
  return found != variants.end() ? &*found : nullptr;
}

std::string Names(const std::vector<Variant>& variants) {
  return absl::StrJoin(variants, ", ", [](std::string* out, const Variant& variant) {
    absl::StrAppend(out, variant.name);
  });
}

absl::StatusOr<spec::ResolvedJob> Resolve(const v1::JobSpec& job, const std::string& what) {
  std::vector<spec::FieldError> errors;
  absl::StatusOr<spec::ResolvedJob> resolved = spec::ResolveJob(job, &errors);
  if (resolved.ok() || errors.empty()) return resolved;
  return InvalidFields(absl::StrCat(what, " is not a valid job"), errors);
}

absl::StatusOr<PlannedJob> PlanJob(const ExperimentOptions& options, const v1::JobSpec& base,
                                   const Variant& variant, uint64_t seed) {
  PlannedJob job{.variant = variant.name, .seed = seed, .spec = base};
  const std::string name = absl::StrCat(options.group, "-", variant.name, "-s", seed);
  job.request_id = absl::StrCat("experiment-", name);
  job.spec.set_name(name);
  job.spec.set_seed(seed);
  auto& labels = *job.spec.mutable_labels();
  labels[kExperimentLabel] = options.group;
  labels[kVariantLabel] = variant.name;
  labels[kBaselineLabel] = options.baseline;
  // The variants say all of the policy: what the base has would not be what their names promise.
  job.spec.clear_precision();
  for (const std::string& change : variant.changes) {
    NIBBLE_RETURN_IF_ERROR(ApplyChange(change, &job.spec));
  }
  NIBBLE_RETURN_IF_ERROR(Resolve(job.spec, absl::StrCat("variant ", variant.name)).status());
  return job;
}

}  // namespace

std::vector<Variant> PaperBaselines() {
  return {{"bf16", "linear layers in BF16", {"precision.recipe=bf16"}},
          {"fp8-blockwise",
           "linear layers in block-wise FP8, the paper's baseline",
           {"precision.recipe=fp8_blockwise"}}};
}

std::vector<Variant> PaperVariants(int blocks) {
  const std::string recipe = "precision.recipe=nvfp4";
  const std::string kept = absl::StrCat(HighPrecisionBlocks(blocks));
  const auto keep = [&](const std::string& first, const std::string& last) {
    return absl::StrCat("precision.high_precision_blocks={first: ", first, ", last: ", last, "}");
  };
  // At 82 % of the tokens, as in the paper.
  const auto late = [](const std::string& passes) {
    return absl::StrCat(
        "precision.late_switch={token_fraction: 0.82, recipe: bf16, passes: ", passes, "}");
  };
  return {
      {kRecipeVariant, absl::StrCat("the recipe (last ", kept, " in BF16)"), {recipe}},
      {"no-stochastic", "gradients to nearest", {recipe, "precision.stochastic_rounding=false"}},
      {"no-hadamard", "no Hadamard transform", {recipe, "precision.hadamard_size=0"}},
      {"weights-1x16", "weights in 1x16 blocks", {recipe, "precision.weight_block_rows=1"}},
      {"bf16-none", "no block in BF16", {recipe, keep("0", "0")}},
      {"bf16-first", absl::StrCat("first ", kept, " in BF16, not last"), {recipe, keep(kept, "0")}},
      {"mxfp4", "the method in MXFP4", {"precision.recipe=mxfp4"}},
      {"switch-forward", "forward in BF16 after 82 % of the tokens", {recipe, late("forward")}},
      {"switch-both", "both passes in BF16 after 82 % of the tokens", {recipe, late("both")}},
      {"native-four-over-six",
       "forward 1x16 with four over six, as Quartet II",
       {recipe, "precision.weight_block_rows=1", "precision.four_over_six=squared"}},
      {"stochastic-forward",
       "stochastic rounding on the forward operands instead",
       {recipe, "precision.stochastic_operands=[fprop.activation, fprop.weight]"}},
  };
}

std::string VariantSummary(const std::string& name, int blocks) {
  for (const auto& variants : {PaperBaselines(), PaperVariants(blocks)}) {
    if (const Variant* variant = Find(variants, name)) return variant->summary;
  }
  return "";
}

absl::StatusOr<std::vector<PlannedJob>> PlanPaperExperiment(const ExperimentOptions& options) {
  if (options.seeds < 1 || options.seeds > kMostSeeds) {
    return absl::InvalidArgumentError(
        absl::StrCat("--seeds is ", options.seeds, "; allowed: 1 to ", kMostSeeds));
  }
  v1::JobSpec base = options.base;
  base.set_name(options.group);
  NIBBLE_ASSIGN_OR_RETURN(const spec::ResolvedJob resolved, Resolve(base, "the experiment"));
  if (!base.training().has_validation_interval()) {
    base.mutable_training()->set_validation_interval((resolved.total_steps + kValidations - 1) /
                                                     kValidations);
  }
  const std::vector<Variant> known = PaperVariants(resolved.spec.model().blocks());
  const std::vector<Variant> baselines = PaperBaselines();
  const Variant* baseline = Find(baselines, options.baseline);
  if (baseline == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--baseline is \"", options.baseline, "\"; allowed: ", Names(baselines)));
  }
  std::vector<Variant> chosen = {*baseline};
  if (options.variants.empty()) chosen.insert(chosen.end(), known.begin(), known.end());
  for (const std::string& name : options.variants) {
    const Variant* variant = Find(known, name);
    if (variant == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("--variants has \"", name, "\"; allowed: ", Names(known)));
    }
    if (Find(chosen, name) == nullptr) chosen.push_back(*variant);
  }
  std::vector<PlannedJob> jobs;
  for (int64_t i = 0; i < options.seeds; ++i) {
    for (const Variant& variant : chosen) {
      NIBBLE_ASSIGN_OR_RETURN(PlannedJob job,
                              PlanJob(options, base, variant, resolved.spec.seed() + uint64_t(i)));
      jobs.push_back(std::move(job));
    }
  }
  return jobs;
}

}  // namespace nibble::client
