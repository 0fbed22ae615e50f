// Precision policy and model dimensions to the formats of every linear layer (docs/numerics.md
// section 5). Internal to proto/spec.
#ifndef PROTO_SPEC_PRECISION_RESOLUTION_H_
#define PROTO_SPEC_PRECISION_RESOLUTION_H_

#include <string>
#include <vector>

#include "nibble/v1/job.pb.h"
#include "nibble/v1/precision.pb.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

// Fills in every field of `policy` for a model of `blocks` blocks (0 where that is not known) and
// checks them. Settings that the recipe does not use are set to their neutral value with a warning.
void ResolvePolicy(int blocks, v1::PrecisionPolicy* policy, ErrorList* errors,
                   std::vector<std::string>* warnings);

// One row a linear layer. Layers that cannot be quantised fall back to BF16 with a note and a
// warning, or are errors where the policy is strict. REQUIRES: `spec` is complete and within
// limits.
v1::ResolvedPrecision ResolvePrecision(const v1::JobSpec& spec, ErrorList* errors);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_PRECISION_RESOLUTION_H_
