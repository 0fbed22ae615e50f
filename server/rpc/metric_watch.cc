#include "server/rpc/metric_watch.h"

#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "server/rpc/conversions.h"
#include "server/rpc/job_reader.h"
#include "server/rpc/polled_source.h"

namespace nibble::rpc {
namespace {

using v1::WatchMetricsResponse;

constexpr int kPageRows = 1000;

class MetricWatch : public PolledSource<WatchMetricsResponse> {
 public:
  MetricWatch(const ApiParts& parts, const v1::WatchMetricsRequest& request)
      : PolledSource(parts.pool),
        parts_(parts),
        reader_(parts.store, parts.metric_store),
        job_id_(request.job_id()),
        names_(request.names().begin(), request.names().end()),
        first_step_(request.after_step() + 1) {}

 private:
  absl::StatusOr<Polled> Poll() override {
    // The job first: rows that come between the two reads belong to a job that has not ended.
    NIBBLE_ASSIGN_OR_RETURN(const scheduler::JobRecord job, reader_.Record(job_id_));
    NIBBLE_ASSIGN_OR_RETURN(const store::MetricPage page, Read());
    WatchMetricsResponse response;
    response.set_state(static_cast<v1::JobState>(job.state));
    for (const store::MetricRow& row : page.rows) {
      if (IsNews(row)) *response.add_rows() = ToProto(row);
    }
    if (!page.rows.empty()) last_ = page.rows.back();
    if (response.rows_size() > 0 || response.state() != last_state_) {
      last_state_ = response.state();
      return Message(std::move(response));
    }
    return scheduler::IsTerminal(job.state) ? End() : Wait();
  }

  // From the last row sent on, itself included: a validation adds values to the row of its step.
  absl::StatusOr<store::MetricPage> Read() const {
    store::MetricQuery query;
    query.job_id = job_id_;
    query.names = names_;
    query.first_step = last_.has_value() ? last_->step : first_step_;
    query.limit = kPageRows;
    return parts_.metric_store->Read(query);
  }

  bool IsNews(const store::MetricRow& row) const {
    if (!last_.has_value() || row.step > last_->step) return true;
    if (row.rank != last_->rank) return row.rank > last_->rank;
    return row.attempt != last_->attempt || row.values.size() != last_->values.size();
  }

  const ApiParts parts_;
  const JobReader reader_;
  const std::string job_id_;
  const std::vector<std::string> names_;
  const int64_t first_step_;
  std::optional<store::MetricRow> last_;
  v1::JobState last_state_ = v1::JOB_STATE_UNSPECIFIED;
};

}  // namespace

absl::StatusOr<std::shared_ptr<MessageSource<WatchMetricsResponse>>> MakeMetricWatch(
    const ApiParts& parts, const v1::WatchMetricsRequest& request) {
  auto watch = std::make_shared<MetricWatch>(parts, request);
  watch->WakeOn(&parts.coordinator->feed(), {coordinator::JobTopic(request.job_id()),
                                             coordinator::MetricsTopic(request.job_id())});
  return std::shared_ptr<MessageSource<WatchMetricsResponse>>(watch);
}

}  // namespace nibble::rpc
