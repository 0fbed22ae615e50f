// A TrainingService in this process, on loopback, for tests of the command line.
#ifndef CLIENT_FAKE_DAEMON_H_
#define CLIENT_FAKE_DAEMON_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nibble/v1/training_service.pb.h"

namespace nibble::client {

// Thread-safe.
class FakeDaemon {
 public:
  FakeDaemon();
  ~FakeDaemon();

  // "127.0.0.1:<port>", the same after a restart.
  const std::string& address() const;
  // Stops listening and ends every stream; Start listens again with the same jobs.
  void Stop();
  void Start();

  // Adds a job or replaces the one of the same id, and tells the watchers.
  void PutJob(const v1::Job& job);
  void AddRow(const std::string& job_id, const v1::MetricRow& row);
  void AddLogLine(const std::string& job_id, const v1::LogLine& line);
  void AddCheckpoint(const v1::Checkpoint& checkpoint);
  void AddEvent(const v1::JobEvent& event);
  void AddWorker(const v1::Worker& worker);

  // The next `times` calls of `method` ("SubmitJob") fail with `status` and these details (a
  // serialised google.rpc.Status).
  void FailNext(const std::string& method, const absl::Status& status, int times,
                const std::string& details = "");
  // The next call of `method` takes effect, but its answer is lost: UNAVAILABLE.
  void LoseAnswer(const std::string& method);
  // Calls of `method` answer only after this long.
  void Delay(const std::string& method, int milliseconds);

  // How often `method` was called.
  int calls(const std::string& method) const;
  std::vector<v1::SubmitJobRequest> submissions() const;
  std::vector<int64_t> metric_cursors() const;
  // WatchJobs calls that have told the states of their jobs.
  size_t job_streams() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::client

#endif  // CLIENT_FAKE_DAEMON_H_
