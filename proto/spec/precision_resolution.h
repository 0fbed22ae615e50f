// Precision policy and model dimensions to the formats of every linear layer (docs/numerics.md
// section 5). Internal to proto/spec.
#ifndef PROTO_SPEC_PRECISION_RESOLUTION_H_
#define PROTO_SPEC_PRECISION_RESOLUTION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nibble/v1/job.pb.h"
#include "nibble/v1/precision.pb.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

// What a policy depends on; 0 where it is not known.
struct PolicyContext {
  int blocks = 0;
  int64_t total_steps = 0;
  uint64_t seed = 0;
};

// Fills in every field of `policy` and checks them. Settings that nothing in the policy uses are
// set to their neutral value with a warning.
void ResolvePolicy(const PolicyContext& context, v1::PrecisionPolicy* policy, ErrorList* errors,
                   std::vector<std::string>* warnings);

// The policy's switch as a step, counted from 0; 0 where it has none. REQUIRES: ResolvePolicy found
// no error.
int64_t LateSwitchStep(const v1::PrecisionPolicy& policy, int64_t total_steps);

// One row a linear layer, and the rows that change later. Layers that cannot be quantised fall back
// to BF16 with a note and a warning, or are errors where the policy is strict. REQUIRES: `spec` is
// complete and within limits.
v1::ResolvedPrecision ResolvePrecision(const v1::JobSpec& spec, int64_t total_steps,
                                       ErrorList* errors);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_PRECISION_RESOLUTION_H_
