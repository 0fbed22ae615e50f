#include "worker/agent/log_queue.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace nibble::agent {
namespace {

void SetTime(int64_t wall_micros, google::protobuf::Timestamp* time) {
  time->set_seconds(wall_micros / 1'000'000);
  time->set_nanos(static_cast<int32_t>(wall_micros % 1'000'000 * 1000));
}

}  // namespace

void LogQueue::Push(LogEntry entry) {
  tail_.push_back(entry.text);
  if (tail_.size() > kTailLines) tail_.pop_front();
  waiting_.push_back(std::move(entry));
  if (waiting_.size() > kMaxWaitingLines) {
    waiting_.pop_front();
    ++dropped_;
  }
}

void LogQueue::FillBatch(v1::AppendLogsRequest* request) {
  if (batch_.records_size() == 0) {
    if (dropped_ > 0 && !waiting_.empty()) {
      v1::LogRecord* record = batch_.add_records();
      record->set_sequence(++last_sequence_);
      SetTime(waiting_.front().wall_micros, record->mutable_time());
      record->set_text(absl::StrCat("[", dropped_, " lines dropped]"));
      dropped_ = 0;
    }
    size_t bytes = 0;
    while (!waiting_.empty() && batch_.records_size() < static_cast<int>(kMaxBatchLines) &&
           bytes < kMaxBatchBytes) {
      v1::LogRecord* record = batch_.add_records();
      record->set_sequence(++last_sequence_);
      SetTime(waiting_.front().wall_micros, record->mutable_time());
      bytes += waiting_.front().text.size();
      record->set_text(std::move(waiting_.front().text));
      waiting_.pop_front();
    }
  }
  *request->mutable_records() = batch_.records();
}

std::string LogQueue::Tail() const { return absl::StrJoin(tail_, " | "); }

}  // namespace nibble::agent
