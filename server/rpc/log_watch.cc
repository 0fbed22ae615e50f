#include "server/rpc/log_watch.h"

#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "server/rpc/conversions.h"
#include "server/rpc/job_reader.h"
#include "server/rpc/polled_source.h"

namespace nibble::rpc {
namespace {

using v1::StreamLogsResponse;

// Lines of at most 16 KiB each: a message stays under gRPC's 4 MiB.
constexpr int kPageLines = 200;

class LogWatch : public PolledSource<StreamLogsResponse> {
 public:
  LogWatch(const ApiParts& parts, const v1::StreamLogsRequest& request)
      : PolledSource(parts.pool),
        parts_(parts),
        reader_(parts.store, parts.metric_store),
        follow_(request.follow()),
        newest_attempt_(request.attempt() == 0) {
    query_.job_id = request.job_id();
    query_.attempt = request.attempt();
    query_.rank = request.rank();
    query_.limit = kPageLines;
  }

 private:
  absl::StatusOr<Polled> Poll() override {
    NIBBLE_ASSIGN_OR_RETURN(const scheduler::JobRecord job, reader_.Record(query_.job_id));
    NIBBLE_ASSIGN_OR_RETURN(store::LogPage page, parts_.metric_store->ReadLogs(query_));
    if (page.lines.empty() && newest_attempt_ && query_.attempt != 0) {
      NIBBLE_ASSIGN_OR_RETURN(page, ReadNewerAttempt());
    }
    if (page.lines.empty()) return CanGrow(job) ? Wait() : End();
    query_.attempt = page.attempt;
    query_.after_sequence = page.lines.back().sequence;
    StreamLogsResponse response;
    for (const store::LogRecord& line : page.lines) {
      v1::LogLine* out = response.add_lines();
      SetTimestamp(line.wall_micros, out->mutable_time());
      out->set_attempt(page.attempt);
      out->set_rank(query_.rank);
      out->set_text(EscapeControlCharacters(line.text));
    }
    return Message(std::move(response));
  }

  // The first lines of the newest attempt that logged; none where that is the one being read.
  absl::StatusOr<store::LogPage> ReadNewerAttempt() const {
    store::LogQuery query = query_;
    query.attempt = 0;
    query.after_sequence = 0;
    NIBBLE_ASSIGN_OR_RETURN(store::LogPage page, parts_.metric_store->ReadLogs(query));
    if (page.attempt <= query_.attempt) page.lines.clear();
    return page;
  }

  bool CanGrow(const scheduler::JobRecord& job) const {
    if (!follow_ || scheduler::IsTerminal(job.state)) return false;
    return newest_attempt_ || job.attempt <= query_.attempt;
  }

  const ApiParts parts_;
  const JobReader reader_;
  const bool follow_;
  const bool newest_attempt_;
  store::LogQuery query_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<MessageSource<StreamLogsResponse>>> MakeLogWatch(
    const ApiParts& parts, const v1::StreamLogsRequest& request) {
  auto watch = std::make_shared<LogWatch>(parts, request);
  watch->WakeOn(&parts.coordinator->feed(), {coordinator::JobTopic(request.job_id()),
                                             coordinator::LogsTopic(request.job_id())});
  return std::shared_ptr<MessageSource<StreamLogsResponse>>(watch);
}

}  // namespace nibble::rpc
