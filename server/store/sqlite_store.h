// Store and MetricStore on SQLite: one connection and one thread per file, WAL, exclusive locking.
// jobs.db is synced at every commit (synchronous=FULL), metrics.db at checkpoints (NORMAL).
// See docs/formats/state_directory.md.
#ifndef SERVER_STORE_SQLITE_STORE_H_
#define SERVER_STORE_SQLITE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/store/metric_store.h"
#include "server/store/store.h"

namespace nibble::store {

// Called on the database's thread after every group commit; must be quick and must not call the
// store.
class CommitObserver {
 public:
  virtual ~CommitObserver() = default;
  virtual void OnCommit(int64_t nanos, int64_t transactions) = 0;
};

// "application_id" of the two files: "nibJ", "nibM".
inline constexpr int32_t kJobsApplicationId = 0x6e69624a;
inline constexpr int32_t kMetricsApplicationId = 0x6e69624d;

struct SqliteOptions {
  // Name of an SQLite VFS; empty for the system's. Tests inject faults there.
  std::string vfs;
  // May be null; outlives the store.
  CommitObserver* observer = nullptr;
};

// Opens or creates the file and brings its schema up to date.
// FAILED_PRECONDITION: written by a newer version, or opened by another process. DATA_LOSS: not an
// SQLite database, or damaged beyond opening. Others as the operating system gives them.
absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path,
                                                       SqliteOptions options = {});
absl::StatusOr<std::unique_ptr<MetricStore>> OpenSqliteMetricStore(const std::string& path,
                                                                   SqliteOptions options = {});

}  // namespace nibble::store

#endif  // SERVER_STORE_SQLITE_STORE_H_
