// Scores of a job's newest evaluation (docs/evaluation.md).
#ifndef CLIENT_SCORES_H_
#define CLIENT_SCORES_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/session.h"
#include "nibble/v1/job.pb.h"

namespace nibble::client {

struct Scores {
  int64_t step = 0;
  std::map<std::string, double> values;  // "<name>/<metric>"; empty: there are none yet
};

// Asks for metrics only where the job has an evaluation that may have been made. Errors as
// Connection::GetMetrics.
absl::StatusOr<Scores> ReadScores(Connection& connection, const v1::Job& job);

void PrintScores(Session& session, const Scores& scores);

}  // namespace nibble::client

#endif  // CLIENT_SCORES_H_
