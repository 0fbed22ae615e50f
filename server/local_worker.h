// Keeps one nibble-worker running beside the daemon (`nibbled --local-worker`).
//
// The worker is a process of its own that outlives a crash of the daemon: its trainers go on, and
// the next daemon finds it by the lock it holds on its work directory, does not start another, and
// lets it register again. Where the lock comes free, the worker is started again, with back-off.
#ifndef SERVER_LOCAL_WORKER_H_
#define SERVER_LOCAL_WORKER_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"

namespace nibble::daemon {

inline constexpr char kLocalWorkerId[] = "local";

struct LocalWorkerOptions {
  std::string program;         // path of nibble-worker
  std::string daemon_address;  // "unix:/path"
  std::string work_directory;
  std::string data_directory;  // empty for the worker's default
  std::string log_level;
  int slots = 1;
};

class LocalWorker {
 public:
  // Starts the worker, unless one holds the lock, and a thread that watches it. NOT_FOUND where the
  // program does not exist.
  static absl::StatusOr<std::unique_ptr<LocalWorker>> Start(LocalWorkerOptions options);
  // Stops watching; the worker goes on.
  ~LocalWorker();

  // From now on the worker is not started again.
  void StopRestarting();
  // Waits until no worker runs. After `patience_nanos` it is sent SIGTERM, after half of that again
  // SIGKILL. Call after StopRestarting.
  void WaitForExit(int64_t patience_nanos);

 private:
  explicit LocalWorker(LocalWorkerOptions options) : options_(std::move(options)) {}
  void Watch();
  void WatchOnce() REQUIRES(mutex_);
  void Reap() REQUIRES(mutex_);
  absl::Status Spawn() REQUIRES(mutex_);
  // True where a process other than our child holds the lock.
  bool LockIsHeld() const;
  bool IsRunning() REQUIRES(mutex_);
  // Our child, or the process that the lock file names; 0 for none.
  pid_t ProcessId() REQUIRES(mutex_);

  const LocalWorkerOptions options_;
  Mutex mutex_;
  CondVar wake_;
  pid_t child_ GUARDED_BY(mutex_) = 0;
  bool restarting_ GUARDED_BY(mutex_) = true;
  bool stopped_ GUARDED_BY(mutex_) = false;
  bool adopted_logged_ GUARDED_BY(mutex_) = false;
  int64_t spawned_nanos_ GUARDED_BY(mutex_) = 0;
  int64_t next_spawn_nanos_ GUARDED_BY(mutex_) = 0;
  int64_t backoff_nanos_ GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

// The program `name` in the directory of the running one.
std::string ProgramBeside(const std::string& name);

}  // namespace nibble::daemon

#endif  // SERVER_LOCAL_WORKER_H_
