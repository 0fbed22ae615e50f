// WatchJobs: the state of jobs, then every change. See the proto for the contract.
#ifndef SERVER_RPC_JOB_WATCH_H_
#define SERVER_RPC_JOB_WATCH_H_

#include <memory>

#include "absl/status/statusor.h"
#include "nibble/v1/training_service.pb.h"
#include "server/rpc/api_parts.h"
#include "server/rpc/call.h"

namespace nibble::rpc {

// Changes are read from the audit events, so a stream that is resumed by its cursor misses none,
// also over a restart of the daemon. Messages of the first listing have an empty cursor but for the
// last: a stream that breaks in the listing starts over.
// INVALID_ARGUMENT for a forged cursor. The stream fails with NOT_FOUND where a job asked for by
// name does not exist, unless a cursor says that it did.
absl::StatusOr<std::shared_ptr<MessageSource<v1::WatchJobsResponse>>> MakeJobWatch(
    const ApiParts& parts, const v1::WatchJobsRequest& request);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_JOB_WATCH_H_
