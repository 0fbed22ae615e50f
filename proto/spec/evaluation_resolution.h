// Defaults and checks of JobSpec.evaluation. Internal to proto/spec.
#ifndef PROTO_SPEC_EVALUATION_RESOLUTION_H_
#define PROTO_SPEC_EVALUATION_RESOLUTION_H_

#include "nibble/v1/job.pb.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

// Whether the job trains nothing and scores the checkpoint that it starts from: training.steps is
// 0, which only a spec with training.init_from and evaluation.tasks may have.
bool OnlyScores(const v1::JobSpec& spec);

// Does nothing where the spec has no evaluation. REQUIRES: model and training are resolved.
void ResolveEvaluation(v1::JobSpec* spec, ErrorList* errors);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_EVALUATION_RESOLUTION_H_
