// The two gRPC services, bound to their handlers.
#ifndef SERVER_RPC_SERVICES_H_
#define SERVER_RPC_SERVICES_H_

#include <memory>

#include "base/clock.h"
#include "server/rpc/training_api.h"
#include "server/rpc/worker_api.h"
#include "server/telemetry/telemetry.h"

namespace grpc {
class Service;
}

namespace nibble::rpc {

// The handlers, clock and telemetry outlive the service.
std::unique_ptr<grpc::Service> MakeTrainingService(TrainingApi* api, const Clock* clock,
                                                   telemetry::Telemetry* telemetry);
std::unique_ptr<grpc::Service> MakeWorkerService(WorkerApi* api, const Clock* clock,
                                                 telemetry::Telemetry* telemetry);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_SERVICES_H_
