// Defaults, presets and checks of model dimensions, family by family. Internal to proto/spec.
#ifndef PROTO_SPEC_MODEL_RESOLUTION_H_
#define PROTO_SPEC_MODEL_RESOLUTION_H_

#include "nibble/v1/job.pb.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

// Fills in every field that the family has and refuses those that it has not. False where
// something is wrong that the parameter count or the formats depend on; every wrong field is in
// `errors`.
bool ResolveModelSpec(v1::ModelSpec* model, ErrorList* errors);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_MODEL_RESOLUTION_H_
