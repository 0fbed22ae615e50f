// model.yaml of a checkpoint: what model its weights are of, so that it can be used without the job
// that trained it. Format: docs/formats/checkpoint.md.
#ifndef WORKER_MODEL_DESCRIPTION_H_
#define WORKER_MODEL_DESCRIPTION_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nibble/v1/job.pb.h"
#include "worker/trainer/training_config.h"

namespace nibble::worker {

struct ModelDescription {
  v1::ModelSpec model;         // resolved: every field present
  int64_t context_length = 0;  // tokens of a sequence in training
  double logit_softcap = 0;    // LossSpec.logit_softcap
};

// The text of model.yaml: the parts of the job spec that the description is.
std::string DescribeModel(const v1::JobSpec& spec);
std::string DescribeModel(const ModelDescription& description);

// Fills in defaults and presets and checks everything, as for a job. INVALID_ARGUMENT with the path
// and what is allowed of every wrong field.
absl::StatusOr<ModelDescription> ResolveModel(const v1::ModelSpec& model, int64_t context_length,
                                              double logit_softcap = 0);

// Reads such a text. INVALID_ARGUMENT: it is none, or of a model that ResolveModel refuses.
absl::StatusOr<ModelDescription> ParseModelDescription(absl::string_view text);

// What the model library takes.
absl::StatusOr<trainer::ModelConfig> ModelConfigOf(const ModelDescription& description);

}  // namespace nibble::worker

#endif  // WORKER_MODEL_DESCRIPTION_H_
