// Turns changes of jobs into telemetry: which jobs have series, and how long they waited for slots.
#ifndef SERVER_COORDINATOR_JOB_GAUGES_H_
#define SERVER_COORDINATOR_JOB_GAUGES_H_

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/types.h"
#include "server/telemetry/telemetry.h"

namespace nibble::coordinator {

// Not thread-safe.
class JobGauges {
 public:
  using RecipeOf = std::function<std::string(const scheduler::JobDocument&)>;
  JobGauges(telemetry::Telemetry* telemetry, RecipeOf recipe_of)
      : telemetry_(telemetry), recipe_of_(std::move(recipe_of)) {}

  // All jobs as a start of the daemon found them. What they waited before is not known: the wait of
  // a queued job counts from here, that of a live attempt was counted by an earlier daemon.
  void Recovered(const scheduler::Recovered& recovered, int64_t now_nanos);
  // The job as it now is.
  void Changed(const scheduler::JobRecord& job, bool deleted, int64_t now_nanos);

 private:
  // A job that waits or holds slots.
  struct Known {
    std::optional<int64_t> queued_since_nanos;
    int64_t attempt = 0;  // the newest whose wait was counted
    bool has_series = false;
  };

  Known& Find(const scheduler::JobRecord& job);
  void ShowSeries(const scheduler::JobRecord& job, Known* known);
  static void NoteQueue(const scheduler::JobRecord& job, int64_t now_nanos, Known* known);

  telemetry::Telemetry* telemetry_;
  RecipeOf recipe_of_;
  // Jobs up to this number that are not in known_ have waited since the first start's Recovered:
  // a queue of 100,000 costs a start nothing.
  int64_t recovered_sequence_ = 0;
  std::optional<int64_t> recovered_nanos_;
  absl::flat_hash_map<std::string, Known> known_;
};

// Rows by state (the store's counters) and the scheduler's own sums, in telemetry's form.
telemetry::ControlPlaneCounts CountsOf(const std::array<int64_t, 10>& jobs_by_state,
                                       const scheduler::SchedulerStats& stats);

}  // namespace nibble::coordinator

#endif  // SERVER_COORDINATOR_JOB_GAUGES_H_
