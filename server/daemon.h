// The composition root of nibbled: opens the stores, starts the coordinator, the servers and the
// local worker, and takes them down in order.
#ifndef SERVER_DAEMON_H_
#define SERVER_DAEMON_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/local_worker.h"
#include "server/rpc/grpc_server.h"

namespace nibble::daemon {

// Exit status after an I/O error of the store (R4): the supervisor restarts the daemon, which
// recovers from disk. sysexits.h EX_IOERR.
inline constexpr int kExitStoreFailed = 74;

struct DaemonOptions {
  rpc::GrpcServerOptions grpc;
  std::string state_directory;
  std::string metrics_listen;  // empty for none
  std::string port_file;       // empty for none
  int64_t lease_term_ms = 15'000;
  std::string projects_file;  // empty for none
  int max_job_slots = 1;
  bool local_worker = false;
  int local_slots = 1;
  std::string data_directory;
  std::string local_work_directory;  // empty for <state>/worker
  std::string log_level = "info";
};

class Daemon {
 public:
  // Serving when it returns. FAILED_PRECONDITION where another daemon has the state directory;
  // errors of the stores, of rpc::GrpcServer::Start, of LocalWorker::Start.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonOptions& options);
  // Ends abruptly where ShutDown was not called.
  ~Daemon();

  const std::vector<std::string>& addresses() const;
  const std::string& metrics_address() const;

  // The local worker pauses its trainers and exits (up to 30 s), calls end, everything is flushed.
  void ShutDown();

 private:
  struct Parts;
  explicit Daemon(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace nibble::daemon

#endif  // SERVER_DAEMON_H_
