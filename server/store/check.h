// Verifies a state directory: every row's checksum, what rows say of each other, and what must hold
// of every job. See docs/operations.md.
#ifndef SERVER_STORE_CHECK_H_
#define SERVER_STORE_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace nibble::store {

struct CheckReport {
  // One sentence each, naming table and row; empty for a sound directory. At most kMaxProblems,
  // then how many more there are.
  std::vector<std::string> problems;
  int64_t jobs = 0;
  int64_t events = 0;
  int64_t metric_rows = 0;
};

inline constexpr size_t kMaxProblems = 100;

// Reads jobs.db and metrics.db of the directory, which no daemon may be using; moves nothing but
// what opening moves (the write-ahead log into the database). FAILED_PRECONDITION: a daemon has it.
// NOT_FOUND: no jobs.db there. A database that cannot be opened is a problem, not an error.
absl::StatusOr<CheckReport> CheckStateDirectory(const std::string& directory);

}  // namespace nibble::store

#endif  // SERVER_STORE_CHECK_H_
