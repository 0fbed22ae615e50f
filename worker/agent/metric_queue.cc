#include "worker/agent/metric_queue.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace nibble::agent {

absl::Status MetricQueue::Push(const v1::MetricRecord& record) {
  if (record.sequence() != last_ + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("metric row ", record.sequence(), " does not follow row ", last_));
  }
  rows_.push_back(record.SerializeAsString());
  ++last_;
  last_step_ = record.step();
  return absl::OkStatus();
}

void MetricQueue::FillBatch(v1::AppendMetricsRequest* request) const {
  size_t bytes = 0;
  for (int64_t sequence = acknowledged_ + 1; sequence <= last_; ++sequence) {
    const std::string& row = rows_[sequence - first_];
    bytes += row.size();
    const size_t rows = request->records_size();
    if (rows == kMaxBatchRows || (rows > 0 && bytes > kMaxBatchBytes)) return;
    // Serialised here from a message, so it parses.
    request->add_records()->ParseFromString(row);
  }
}

void MetricQueue::Acknowledge(int64_t sequence) {
  acknowledged_ = std::max(acknowledged_, std::min(sequence, last_));
  Trim();
}

absl::Status MetricQueue::RewindTo(int64_t sequence) {
  if (sequence < 1 || sequence > last_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the daemon expects metric row ", sequence, "; there are rows 1 to ", last_));
  }
  if (sequence < first_) {
    return absl::DataLossError(absl::StrCat("the daemon expects metric row ", sequence,
                                            "; rows before ", first_, " are not kept any more"));
  }
  acknowledged_ = sequence - 1;
  return absl::OkStatus();
}

void MetricQueue::RewindOne() {
  if (acknowledged_ >= first_) --acknowledged_;
}

void MetricQueue::Trim() {
  while (acknowledged_ - first_ + 1 > static_cast<int64_t>(kKeptRows)) {
    rows_.pop_front();
    ++first_;
  }
}

}  // namespace nibble::agent
