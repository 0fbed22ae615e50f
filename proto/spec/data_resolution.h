// Defaults and checks of JobSpec.data. Internal to proto/spec.
#ifndef PROTO_SPEC_DATA_RESOLUTION_H_
#define PROTO_SPEC_DATA_RESOLUTION_H_

#include "nibble/v1/job.pb.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

void ResolveData(v1::DataSpec* data, ErrorList* errors);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_DATA_RESOLUTION_H_
