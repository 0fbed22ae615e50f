// Defaults and limits of checkpoint.snapshot_* and safety. Internal to proto/spec, but for
// KeepSafetyIdentity.
#ifndef PROTO_SPEC_SAFETY_RESOLUTION_H_
#define PROTO_SPEC_SAFETY_RESOLUTION_H_

#include "nibble/v1/job.pb.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

void ResolveSnapshots(v1::CheckpointSpec* checkpoint, ErrorList* errors);
void ResolveSafety(v1::SafetySpec* safety, ErrorList* errors);

// Leaves of spec.safety, for a digest of the configuration, what can change the weights: nothing
// where no action is "rollback".
void KeepSafetyIdentity(v1::JobSpec* spec);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_SAFETY_RESOLUTION_H_
