// Jobs as the API shows them: the record and what the metrics add to it. Blocks: pool threads only.
#ifndef SERVER_RPC_JOB_READER_H_
#define SERVER_RPC_JOB_READER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nibble/v1/job.pb.h"
#include "server/scheduler/types.h"
#include "server/store/metric_store.h"
#include "server/store/store.h"

namespace nibble::rpc {

// Thread-safe.
class JobReader {
 public:
  JobReader(store::Store* store, store::MetricStore* metric_store)
      : store_(store), metric_store_(metric_store) {}

  // NOT_FOUND (JOB_NOT_FOUND), DATA_LOSS.
  absl::StatusOr<scheduler::JobRecord> Record(const std::string& job_id) const;
  absl::StatusOr<v1::Job> Read(const std::string& job_id) const;
  absl::StatusOr<v1::Job> Show(const scheduler::JobRecord& record) const;
  // In the order of `records`.
  absl::StatusOr<std::vector<v1::Job>> ShowAll(
      const std::vector<scheduler::JobRecord>& records) const;

 private:
  store::Store* store_;
  store::MetricStore* metric_store_;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_JOB_READER_H_
