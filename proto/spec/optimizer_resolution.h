// Defaults and checks of the optimiser, its schedule and the loss. Internal to proto/spec.
#ifndef PROTO_SPEC_OPTIMIZER_RESOLUTION_H_
#define PROTO_SPEC_OPTIMIZER_RESOLUTION_H_

#include <cstdint>

#include "nibble/v1/job.pb.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

// Fills in every field that is absent and adds an error for each that is wrong. `total_steps`: the
// length of the run, or 0 where that is an error already; then what depends on it is not checked.
void ResolveOptimizer(int64_t total_steps, v1::OptimizerSpec* optimizer, ErrorList* errors);
void ResolveLoss(int64_t total_steps, v1::LossSpec* loss, ErrorList* errors);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_OPTIMIZER_RESOLUTION_H_
