// What happened in the daemon, said to whoever keeps count of it. Knows nothing of Prometheus.
#ifndef SERVER_TELEMETRY_TELEMETRY_H_
#define SERVER_TELEMETRY_TELEMETRY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace nibble::telemetry {

// Reasons of events that training safety brings about. Shown from the start as well.
inline constexpr const char* kIncidents[] = {"GUARD_TRIPPED", "TRAINER_HUNG", "TRAINER_RESTARTED",
                                             "CHECKPOINT_QUARANTINED", "SNAPSHOT_REFUSED"};

// The kinds of alerts. Shown from the start, at 0: an increase from no series is not seen.
inline constexpr const char* kAlertKinds[] = {"mass_expiry_held", "daemon_stalled",
                                              "over_allocated"};

// The control plane at one instant: counts over the rows of the store and the workers known.
struct ControlPlaneCounts {
  // By the state's name in the API, every state present.
  std::map<std::string, int64_t> jobs_by_state;
  // Jobs that wait for slots.
  int64_t queue_depth = 0;
  int64_t workers_online = 0;
  int64_t workers_unreachable = 0;
  int64_t slots_total = 0;
  int64_t slots_used = 0;
  int64_t leases = 0;
};

// One step that a running job reported.
struct TrainingStepReport {
  int64_t step = 0;
  // As in the API's MetricRow: loss, learning_rate, grad_norm, step_seconds, tokens_per_second,
  // tokens, validation_loss.
  std::map<std::string, double> values;
};

struct ActiveJob {
  std::string job_id;
  std::string name;
  std::string recipe;
};

// Thread-safe; no method blocks on anything but a short lock of its own.
class Telemetry {
 public:
  virtual ~Telemetry() = default;

  // A call of the API ended. `method` is "Service/Method", `code` the status code's name.
  virtual void RpcEnded(absl::string_view method, absl::string_view code, double seconds) = 0;
  // One commit made the transactions of `group_size` steps of the scheduler durable.
  virtual void Committed(double seconds, int64_t group_size) = 0;
  // One Step of the scheduler took this long.
  virtual void Scheduled(double seconds) = 0;
  // A job waited this long from its submission (or return to the queue) to slots.
  virtual void QueueWaited(double seconds) = 0;
  // Training safety found something: the name of the event's reason, one of kIncidents.
  virtual void IncidentNoted(absl::string_view /*reason*/) {}
  // The scheduler raised an alert of this kind; `kind` is one of kAlertKinds.
  virtual void Alerted(absl::string_view kind) = 0;
  // Replaces all counts at once: a scrape sees this snapshot or an earlier one, never a mixture.
  virtual void SetCounts(const ControlPlaneCounts& counts) = 0;

  // A job holds slots from now on. Idempotent.
  virtual void JobActive(const ActiveJob& job) = 0;
  // Steps of an active job, each given once, in order. Ignored for jobs not active.
  virtual void TrainingSteps(absl::string_view job_id,
                             const std::vector<TrainingStepReport>& steps) = 0;
  // The job holds slots no longer: its series end. Idempotent.
  virtual void JobInactive(absl::string_view job_id) = 0;
};

// Counts nothing.
class NullTelemetry : public Telemetry {
 public:
  void RpcEnded(absl::string_view, absl::string_view, double) override {}
  void Committed(double, int64_t) override {}
  void Scheduled(double) override {}
  void QueueWaited(double) override {}
  void Alerted(absl::string_view) override {}
  void SetCounts(const ControlPlaneCounts&) override {}
  void JobActive(const ActiveJob&) override {}
  void TrainingSteps(absl::string_view, const std::vector<TrainingStepReport>&) override {}
  void JobInactive(absl::string_view) override {}
};

}  // namespace nibble::telemetry

#endif  // SERVER_TELEMETRY_TELEMETRY_H_
