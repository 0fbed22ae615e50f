// WatchAssignments: what a worker should hold, at once and after every change.
#ifndef SERVER_RPC_ASSIGNMENT_WATCH_H_
#define SERVER_RPC_ASSIGNMENT_WATCH_H_

#include <memory>
#include <string>

#include "nibble/v1/worker_service.pb.h"
#include "server/rpc/api_parts.h"
#include "server/rpc/call.h"

namespace nibble::rpc {

// The stream fails with NOT_FOUND (UNKNOWN_WORKER) where the worker has to register first, and with
// FAILED_PRECONDITION (STALE_INCARNATION) once another process has registered as this worker.
std::shared_ptr<MessageSource<v1::AssignmentList>> MakeAssignmentWatch(
    const ApiParts& parts, const v1::WatchAssignmentsRequest& request);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_ASSIGNMENT_WATCH_H_
