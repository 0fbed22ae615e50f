// WatchMetrics: rows that are there, then new ones, until the job has ended.
#ifndef SERVER_RPC_METRIC_WATCH_H_
#define SERVER_RPC_METRIC_WATCH_H_

#include <memory>

#include "absl/status/statusor.h"
#include "nibble/v1/training_service.pb.h"
#include "server/rpc/api_parts.h"
#include "server/rpc/call.h"

namespace nibble::rpc {

// The stream fails with NOT_FOUND where the job does not exist or is deleted.
absl::StatusOr<std::shared_ptr<MessageSource<v1::WatchMetricsResponse>>> MakeMetricWatch(
    const ApiParts& parts, const v1::WatchMetricsRequest& request);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_METRIC_WATCH_H_
