// The two faces of `nibble watch`: a live view for terminals, lines for everything else.
#ifndef CLIENT_WATCH_VIEW_H_
#define CLIENT_WATCH_VIEW_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/job_progress.h"
#include "client/session.h"
#include "client/watch.h"

namespace nibble::client {

// Told of every change, in order; prints what it likes.
class WatchView {
 public:
  virtual ~WatchView() = default;
  // The job's state, reason or attempt changed, or it was deleted.
  virtual void StateChanged(const JobProgress& progress, const std::vector<JobProgress>& all) = 0;
  virtual void RowAdded(const JobProgress& progress, const v1::MetricRow& row,
                        const std::vector<JobProgress>& all) = 0;
  // After a batch of changes, and a few times a second without any.
  virtual void Refresh(const std::vector<JobProgress>& all, bool connected) = 0;
  // Last call; all jobs have ended, or the user has.
  virtual void End(const std::vector<JobProgress>& all) = 0;
};

// "kjv-nvfp4", or with the id where several of the jobs have that name.
std::string DisplayName(const JobProgress& progress, const std::vector<JobProgress>& all);

// How a job ended, in a line: "SUCCEEDED  train loss 1.42, ...".
std::string OutcomeText(const Terminal& terminal, const v1::Job& job);

std::unique_ptr<WatchView> MakeLiveView(Session* session);
std::unique_ptr<WatchView> MakePlainView(Session* session, const WatchOptions& options);
std::unique_ptr<WatchView> MakeJsonLinesView(Session* session);
std::unique_ptr<WatchView> MakeQuietView(Session* session);

}  // namespace nibble::client

#endif  // CLIENT_WATCH_VIEW_H_
