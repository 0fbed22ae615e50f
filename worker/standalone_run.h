// nibble-trainer without a daemon: a spec file in, a run directory out.
#ifndef WORKER_STANDALONE_RUN_H_
#define WORKER_STANDALONE_RUN_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace nibble::worker {

struct StandaloneOptions {
  std::string spec_file;
  std::string out_directory;
  std::string data_directory;  // of relative data paths
  int64_t steps = 0;           // overrides training.steps; 0: the spec's
  std::string backend;         // overrides resources.backend; empty: the spec's
  int threads = -1;            // overrides resources.threads; -1: the spec's
  // "auto": the newest whole checkpoint of the run directory, if any; otherwise a checkpoint
  // directory.
  std::string resume = "auto";
};

enum class StandaloneEnd { kFinished, kStopped };

// Asks the run to checkpoint and end after the step at hand. Async-signal-safe.
void RequestStop();

// INVALID_ARGUMENT: the spec; other codes as trainer::RunTraining and RunDirectory say.
absl::StatusOr<StandaloneEnd> RunStandalone(const StandaloneOptions& options);

}  // namespace nibble::worker

#endif  // WORKER_STANDALONE_RUN_H_
