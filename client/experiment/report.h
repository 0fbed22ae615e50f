// What an experiment's jobs say together: read from the daemon, shown as table and plot.
#ifndef CLIENT_EXPERIMENT_REPORT_H_
#define CLIENT_EXPERIMENT_REPORT_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/experiment/gap_table.h"
#include "client/session.h"
#include "nibble/v1/job.pb.h"

namespace nibble::client {

// Jobs with the label of `group`, oldest first, without their precision tables. NOT_FOUND: none.
absl::StatusOr<std::vector<v1::Job>> ReadGroup(Connection& connection, const std::string& group);

struct ExperimentReport {
  std::string group;
  std::string baseline;
  std::vector<v1::Job> jobs;
  std::vector<std::string> order;            // variants as submitted
  std::map<std::string, SeedCurves> curves;  // of the validation loss
  double end = 0;                            // tokens of a whole run

  int Succeeded() const;
  // Variants with a seed whose run failed or was cancelled.
  std::vector<std::string> Broken() const;
};

// Jobs that still run count as far as they are. NOT_FOUND: no such experiment.
absl::StatusOr<ExperimentReport> ReadExperiment(Connection& connection, const std::string& group);

// In the session's format.
void PrintReport(Session& session, const ExperimentReport& report);

}  // namespace nibble::client

#endif  // CLIENT_EXPERIMENT_REPORT_H_
