// What the handlers of both services work with. All parts outlive the server.
#ifndef SERVER_RPC_API_PARTS_H_
#define SERVER_RPC_API_PARTS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/random.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/record_appender.h"
#include "server/coordinator/work_pool.h"
#include "server/rpc/call.h"
#include "server/rpc/grpc_status.h"
#include "server/store/metric_store.h"
#include "server/store/store.h"

namespace nibble::rpc {

struct ApiParts {
  coordinator::Coordinator* coordinator = nullptr;
  coordinator::RecordAppender* appender = nullptr;
  store::Store* store = nullptr;
  store::MetricStore* metric_store = nullptr;
  coordinator::WorkPool* pool = nullptr;
  RandomSource* random = nullptr;
  // For GetServerInfo.
  std::string version;
  std::string commit;
  int64_t start_micros = 0;
  std::string metrics_address;
  std::string state_directory;
  // Jobs that ask for more slots are refused.
  int32_t max_job_slots = 1;
  // Projects that jobs may name, in order.
  std::vector<std::string> projects = {"default"};
  // Copies the databases under this name: where to, and how large. Null where there is nothing to
  // copy.
  std::function<absl::StatusOr<std::pair<std::string, int64_t>>(const std::string& name)> back_up;
};

// Runs `work` on the pool and answers with what it returns; RESOURCE_EXHAUSTED where too much
// waits.
template <typename Response>
void AnswerFromPool(coordinator::WorkPool* pool, Reply<Response> reply,
                    std::function<absl::StatusOr<Response>()> work) {
  const bool taken = pool->Submit([reply, work = std::move(work)] { reply(work()); });
  if (taken) return;
  reply(WithReason(absl::ResourceExhaustedError("too many requests wait; try again later"),
                   kOverloaded));
}

// The coordinator's own refusals have reasons too.
absl::Status ToStatus(const coordinator::Outcome& outcome);

}  // namespace nibble::rpc

#endif  // SERVER_RPC_API_PARTS_H_
