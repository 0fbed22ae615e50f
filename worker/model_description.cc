#include "worker/model_description.h"

#include <algorithm>

#include "base/status_macros.h"
#include "proto/spec/job_resolution.h"
#include "proto/spec/spec_document.h"
#include "worker/trainer_config.h"

namespace nibble::worker {
namespace {

v1::JobSpec Part(const v1::ModelSpec& model, int64_t context_length, double logit_softcap) {
  v1::JobSpec part;
  *part.mutable_model() = model;
  part.mutable_model()->clear_preset();  // a name for dimensions that are all there
  part.mutable_training()->set_sequence_length(
      static_cast<int32_t>(std::clamp<int64_t>(context_length, 0, INT32_MAX)));
  if (logit_softcap != 0) part.mutable_loss()->set_logit_softcap(logit_softcap);
  return part;
}

// The smallest job that trains such a model: resolution knows whole jobs only.
v1::JobSpec SmallestJob(const v1::ModelSpec& model, int64_t context_length, double logit_softcap) {
  v1::JobSpec job = Part(model, context_length, logit_softcap);
  *job.mutable_model() = model;
  job.set_name("model");
  job.mutable_data()->set_path("none");
  job.mutable_training()->set_steps(1);
  job.mutable_training()->set_batch_size(1);
  job.mutable_precision()->set_recipe("fp32");
  return job;
}

}  // namespace

std::string DescribeModel(const v1::JobSpec& spec) {
  return spec::JobSpecToYaml(
      Part(spec.model(), spec.training().sequence_length(), spec.loss().logit_softcap()));
}

std::string DescribeModel(const ModelDescription& description) {
  return spec::JobSpecToYaml(
      Part(description.model, description.context_length, description.logit_softcap));
}

absl::StatusOr<ModelDescription> ResolveModel(const v1::ModelSpec& model, int64_t context_length,
                                              double logit_softcap) {
  NIBBLE_ASSIGN_OR_RETURN(
      const spec::ResolvedJob job,
      spec::ResolveJob(SmallestJob(model, context_length, logit_softcap), nullptr));
  ModelDescription description;
  description.model = job.spec.model();
  description.model.clear_preset();
  description.context_length = job.spec.training().sequence_length();
  description.logit_softcap = job.spec.loss().logit_softcap();
  return description;
}

absl::StatusOr<ModelDescription> ParseModelDescription(absl::string_view text) {
  NIBBLE_ASSIGN_OR_RETURN(const v1::JobSpec part,
                          spec::ParseJobSpec(text, spec::DocumentFormat::kYaml, nullptr));
  if (!part.has_model() || !part.training().has_sequence_length()) {
    return absl::InvalidArgumentError("model and training.sequence_length are required");
  }
  return ResolveModel(part.model(), part.training().sequence_length(), part.loss().logit_softcap());
}

absl::StatusOr<trainer::ModelConfig> ModelConfigOf(const ModelDescription& description) {
  NIBBLE_ASSIGN_OR_RETURN(
      const spec::ResolvedJob job,
      spec::ResolveJob(
          SmallestJob(description.model, description.context_length, description.logit_softcap),
          nullptr));
  NIBBLE_ASSIGN_OR_RETURN(const trainer::TrainingConfig config,
                          MakeTrainingConfig(job.spec, job.precision, TrainerPlaces{}));
  return config.model;
}

}  // namespace nibble::worker
