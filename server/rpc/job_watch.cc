#include "server/rpc/job_watch.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "server/rpc/conversions.h"
#include "server/rpc/job_reader.h"
#include "server/rpc/page_token.h"
#include "server/rpc/polled_source.h"

namespace nibble::rpc {
namespace {

using v1::WatchJobsResponse;

constexpr int kPage = 100;

// The job as `event` left it, where it has moved on since.
void GoBackTo(const scheduler::JobEventRecord& event, v1::Job* job) {
  const auto state = static_cast<v1::JobState>(event.after);
  if (job->state() == state && job->attempt() == event.attempt) return;
  job->set_state(state);
  job->set_reason(static_cast<v1::JobReason>(event.reason));
  job->set_reason_message(event.message);
  job->set_attempt(event.attempt);
  SetTimestamp(event.wall_micros, job->mutable_update_time());
  if (!scheduler::IsTerminal(event.after)) {
    job->clear_result();
    job->clear_end_time();
  }
}

class JobWatch : public PolledSource<WatchJobsResponse> {
 public:
  JobWatch(const ApiParts& parts, const v1::WatchJobsRequest& request)
      : PolledSource(parts.pool),
        parts_(parts),
        reader_(parts.store, parts.metric_store),
        names_(request.job_ids().begin(), request.job_ids().end()),
        open_(names_),
        filters_(absl::StrJoin(names_, ",")) {}

  // Before the first Next.
  void StartAfter(int64_t event_id) {
    after_event_ = event_id;
    listing_ = false;
  }
  void StartFromListing() {
    after_event_ = parts_.coordinator->last_event_id();
    deletions_ = parts_.coordinator->deletions().position();
  }
  const std::string& filters() const { return filters_; }
  std::vector<std::string> Topics() const {
    if (names_.empty()) return {coordinator::kAllJobsTopic};
    std::vector<std::string> topics;
    for (const std::string& job_id : names_) topics.push_back(coordinator::JobTopic(job_id));
    return topics;
  }

 private:
  absl::StatusOr<Polled> Poll() override {
    while (ready_.empty() && listing_) NIBBLE_RETURN_IF_ERROR(List());
    if (ready_.empty()) NIBBLE_RETURN_IF_ERROR(Follow());
    if (ready_.empty()) return !names_.empty() && open_.empty() ? End() : Wait();
    WatchJobsResponse response = std::move(ready_.front());
    ready_.pop_front();
    return Message(std::move(response));
  }

  void Add(v1::Job job, std::string cursor) {
    WatchJobsResponse response;
    *response.mutable_job() = std::move(job);
    response.set_cursor(std::move(cursor));
    ready_.push_back(std::move(response));
  }

  void AddDeleted(const std::string& job_id) {
    v1::Job job;
    job.set_job_id(job_id);
    Add(std::move(job), Cursor(after_event_));
    ready_.back().set_deleted(true);
    open_.erase(job_id);
  }

  std::string Cursor(int64_t event_id) const {
    return EncodePageToken(TokenKind::kJobChanges, filters_, {event_id, 0, 0});
  }

  // One page of the listing.
  absl::Status List() {
    std::vector<scheduler::JobRecord> records;
    if (names_.empty()) {
      store::JobQuery query;
      query.limit = kPage;
      query.before_sequence = list_before_;
      NIBBLE_ASSIGN_OR_RETURN(store::JobPage page, parts_.store->ListJobs(query));
      records = std::move(page.jobs);
      list_before_ = page.next;
      listing_ = page.next != 0;
    } else {
      for (const std::string& job_id : names_) {
        NIBBLE_ASSIGN_OR_RETURN(scheduler::JobRecord record, reader_.Record(job_id));
        records.push_back(std::move(record));
      }
      listing_ = false;
    }
    NIBBLE_ASSIGN_OR_RETURN(std::vector<v1::Job> jobs, reader_.ShowAll(records));
    for (size_t i = 0; i < jobs.size(); ++i) {
      if (scheduler::IsTerminal(records[i].state)) open_.erase(records[i].job_id);
      listed_micros_[records[i].job_id] = records[i].update_micros;
      Add(std::move(jobs[i]), listing_ || i + 1 < jobs.size() ? "" : Cursor(after_event_));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<scheduler::JobEventRecord>> NewEvents() const {
    store::EventQuery query;
    query.after_event_id = after_event_;
    query.limit = kPage;
    std::vector<scheduler::JobEventRecord> events;
    if (names_.empty()) {
      NIBBLE_ASSIGN_OR_RETURN(store::EventPage page, parts_.store->ListEvents(query));
      return std::move(page.events);
    }
    // The first kPage of all named jobs together: what lies beyond the last event of a job whose
    // page is full waits for the next call.
    int64_t complete_to = INT64_MAX;
    for (const std::string& job_id : names_) {
      query.job_id = job_id;
      NIBBLE_ASSIGN_OR_RETURN(store::EventPage page, parts_.store->ListEvents(query));
      if (page.next != 0) complete_to = std::min(complete_to, page.events.back().event_id);
      events.insert(events.end(), page.events.begin(), page.events.end());
    }
    std::sort(events.begin(), events.end(),
              [](const auto& a, const auto& b) { return a.event_id < b.event_id; });
    while (!events.empty() && events.back().event_id > complete_to) events.pop_back();
    return events;
  }

  absl::Status Follow() {
    NIBBLE_ASSIGN_OR_RETURN(const auto events, NewEvents());
    std::map<std::string, v1::Job> jobs;
    for (const scheduler::JobEventRecord& event : events) {
      after_event_ = event.event_id;
      // What the listing showed already.
      const auto listed = listed_micros_.find(event.job_id);
      if (listed != listed_micros_.end() && event.wall_micros <= listed->second) continue;
      if (jobs.count(event.job_id) == 0) {
        absl::StatusOr<v1::Job> job = reader_.Read(event.job_id);
        if (absl::IsNotFound(job.status())) continue;  // deleted since
        if (!job.ok()) return job.status();
        jobs[event.job_id] = *std::move(job);
      }
      v1::Job job = jobs[event.job_id];
      GoBackTo(event, &job);
      Add(std::move(job), Cursor(event.event_id));
    }
    if (events.empty()) listed_micros_.clear();
    return names_.empty() ? AddDeletions() : CloseNamed();
  }

  absl::Status AddDeletions() {
    for (const std::string& job_id : parts_.coordinator->deletions().Since(&deletions_)) {
      AddDeleted(job_id);
    }
    return absl::OkStatus();
  }

  // Named jobs that have ended, or were deleted, and of which everything was said.
  absl::Status CloseNamed() {
    if (!ready_.empty()) return absl::OkStatus();
    for (const std::string& job_id : std::set<std::string>(open_)) {
      const absl::StatusOr<scheduler::JobRecord> record = reader_.Record(job_id);
      if (absl::IsNotFound(record.status())) {
        AddDeleted(job_id);
      } else if (!record.ok()) {
        return record.status();
      } else if (scheduler::IsTerminal(record->state)) {
        open_.erase(job_id);
      }
    }
    return absl::OkStatus();
  }

  const ApiParts parts_;
  const JobReader reader_;
  const std::set<std::string> names_;  // empty for all jobs
  std::set<std::string> open_;         // named, and not known to have ended
  const std::string filters_;
  bool listing_ = true;
  int64_t list_before_ = 0;
  int64_t after_event_ = 0;
  int64_t deletions_ = 0;
  std::map<std::string, int64_t> listed_micros_;
  std::deque<WatchJobsResponse> ready_;  // at most a page
};

}  // namespace

absl::StatusOr<std::shared_ptr<MessageSource<WatchJobsResponse>>> MakeJobWatch(
    const ApiParts& parts, const v1::WatchJobsRequest& request) {
  auto watch = std::make_shared<JobWatch>(parts, request);
  watch->WakeOn(&parts.coordinator->feed(), watch->Topics());
  watch->StartFromListing();
  if (!request.cursor().empty()) {
    NIBBLE_ASSIGN_OR_RETURN(
        const Position position,
        DecodePageToken(request.cursor(), TokenKind::kJobChanges, watch->filters(), "cursor"));
    watch->StartAfter(position[0]);
  }
  return std::shared_ptr<MessageSource<WatchJobsResponse>>(watch);
}

}  // namespace nibble::rpc
