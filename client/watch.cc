#include "client/watch.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <iterator>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "client/status.h"
#include "client/text.h"
#include "client/watch_feed.h"
#include "client/watch_view.h"

namespace nibble::client {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
// A live view shows this much of the past at most; plots have fewer dots.
constexpr int kHistoryPoints = 500;

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

// Turns the first Ctrl-C into a flag; a second one ends the program as usual.
class InterruptHandler {
 public:
  InterruptHandler() {
    interrupted = false;
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptHandler() { sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ = {};
};

std::unique_ptr<WatchView> MakeView(Session& session, const WatchOptions& options) {
  if (options.quiet) return MakeQuietView(&session);
  if (session.format() == "json") return MakeJsonLinesView(&session);
  if (session.terminal().out_is_terminal) return MakeLiveView(&session);
  return MakePlainView(&session, options);
}

class Watcher {
 public:
  Watcher(WatchView* view, const std::vector<std::string>& job_ids) : view_(view) {
    for (const std::string& id : job_ids) progress_.emplace_back(id);
  }

  absl::Status Apply(WatchUpdate update) {
    if (!update.error.ok()) return update.error;
    const auto found = std::find_if(
        progress_.begin(), progress_.end(),
        [&](const JobProgress& progress) { return progress.job().job_id() == update.job_id; });
    if (found == progress_.end()) return absl::OkStatus();
    std::vector<v1::MetricRow>& waiting = waiting_rows_[update.job_id];
    std::move(update.rows.begin(), update.rows.end(), std::back_inserter(waiting));
    if (update.metrics_ended) found->SetMetricsEnded();
    if (update.deleted) found->SetDeleted();
    if (update.job != nullptr) {
      const v1::Job& job = found->job();
      const bool changed = update.deleted || job.state() != update.job->state() ||
                           job.reason() != update.job->reason() ||
                           job.attempt() != update.job->attempt();
      if (!update.deleted) found->SetJob(*update.job);
      // How a job ended is told once its last rows are here.
      if (changed && !IsTerminal(update.job->state())) view_->StateChanged(*found, progress_);
    }
    // The streams race: rows wait until the job's name and length are known.
    if (found->job().state() == v1::JOB_STATE_UNSPECIFIED) return absl::OkStatus();
    for (const v1::MetricRow& row : waiting) {
      found->AddRow(row);
      view_->RowAdded(*found, row, progress_);
    }
    waiting.clear();
    return absl::OkStatus();
  }

  const std::vector<JobProgress>& progress() const { return progress_; }
  bool finished() const {
    return std::all_of(progress_.begin(), progress_.end(),
                       [](const JobProgress& progress) { return progress.Finished(); });
  }
  bool succeeded() const {
    return std::all_of(progress_.begin(), progress_.end(), [](const JobProgress& progress) {
      return !progress.deleted() && progress.job().state() == v1::SUCCEEDED;
    });
  }

 private:
  WatchView* const view_;
  std::vector<JobProgress> progress_;
  std::map<std::string, std::vector<v1::MetricRow>> waiting_rows_;
};

void SayThatJobsGoOn(Session& session, const std::vector<std::string>& job_ids) {
  const std::string ids = absl::StrJoin(job_ids, " ");
  session.err() << "Interrupted. " << (job_ids.size() == 1 ? "The job goes" : "The jobs go")
                << " on; `nibble watch " << ids << "` looks again, `nibble cancel " << ids
                << "` ends " << (job_ids.size() == 1 ? "it" : "them") << ".\n";
}

}  // namespace

absl::StatusOr<int> Watch(Session& session, const std::vector<std::string>& job_ids,
                          const WatchOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
  const std::unique_ptr<WatchView> view = MakeView(session, options);
  Watcher watcher(view.get(), job_ids);
  InterruptHandler interrupt_handler;
  WatchFeedOptions feed_options;
  feed_options.history_points =
      session.terminal().out_is_terminal && !options.quiet ? kHistoryPoints : 0;
  feed_options.reconnect_window = options.reconnect_window;
  WatchFeed feed(connection, job_ids, feed_options);
  absl::Status error;
  while (error.ok() && !watcher.finished() && !interrupted) {
    for (WatchUpdate& update : feed.Take(kTick)) {
      error.Update(watcher.Apply(std::move(update)));
    }
    view->Refresh(watcher.progress(), feed.connected());
    if (!session.out().good()) return kExitDone;  // the reader of the pipe has gone
  }
  view->End(watcher.progress());
  if (!error.ok()) return error;
  if (!watcher.finished()) {
    SayThatJobsGoOn(session, job_ids);
    return kExitInterrupted;
  }
  return watcher.succeeded() ? kExitDone : kExitJobFailed;
}

}  // namespace nibble::client
