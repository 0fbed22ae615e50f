// Telemetry as Prometheus metrics, served over HTTP at /metrics. docs/operations.md lists them.
#ifndef SERVER_TELEMETRY_PROMETHEUS_TELEMETRY_H_
#define SERVER_TELEMETRY_PROMETHEUS_TELEMETRY_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/telemetry/telemetry.h"

namespace nibble::telemetry {

// Jobs with series of their own at one time; further active jobs count only in the totals.
inline constexpr int kMaxJobSeries = 200;

// What nibble_build_info says.
struct BuildInfo {
  std::string version;
  std::string commit;
};

class PrometheusTelemetry : public Telemetry {
 public:
  explicit PrometheusTelemetry(const BuildInfo& build = {});
  ~PrometheusTelemetry() override;

  // Serves /metrics on "host:port" until destruction; port 0 picks a free one. Returns the port.
  // UNAVAILABLE where the address cannot be bound. Call at most once.
  absl::StatusOr<int> Serve(const std::string& address);

  // What /metrics would answer now, in the text format.
  std::string Text() const;

  void RpcEnded(absl::string_view method, absl::string_view code, double seconds) override;
  void Committed(double seconds, int64_t group_size) override;
  void Scheduled(double seconds) override;
  void QueueWaited(double seconds) override;
  void IncidentNoted(absl::string_view reason) override;
  void Alerted(absl::string_view kind) override;
  void SetCounts(const ControlPlaneCounts& counts) override;
  void JobActive(const ActiveJob& job) override;
  void TrainingSteps(absl::string_view job_id,
                     const std::vector<TrainingStepReport>& steps) override;
  void JobInactive(absl::string_view job_id) override;

 private:
  class Metrics;
  class Server;
  std::shared_ptr<Metrics> metrics_;
  std::unique_ptr<Server> server_;
};

}  // namespace nibble::telemetry

#endif  // SERVER_TELEMETRY_PROMETHEUS_TELEMETRY_H_
