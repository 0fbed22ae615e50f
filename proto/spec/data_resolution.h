// Defaults and checks of JobSpec.data. Internal to proto/spec.
#ifndef PROTO_SPEC_DATA_RESOLUTION_H_
#define PROTO_SPEC_DATA_RESOLUTION_H_

#include "nibble/v1/job.pb.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

// `required`: a spec without data is an error.
void ResolveData(bool required, v1::DataSpec* data, ErrorList* errors);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_DATA_RESOLUTION_H_
