// The six efficiency metrics of a run (EfficientLLM, arXiv 2505.13840): memory, compute
// utilisation, latency, throughput, energy, compression. docs/operations.md lists the names.
#ifndef WORKER_TRAINER_EFFICIENCY_H_
#define WORKER_TRAINER_EFFICIENCY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/trainer/energy_meter.h"
#include "worker/trainer/latency_histogram.h"
#include "worker/trainer/training_config.h"

namespace nibble::trainer {

// FLOP/s of the backend's own matrix products at a size that suits them: the larger of FP32 and
// BF16, each the best of a few. Takes some tenths of a second.
absl::StatusOr<double> MeasurePeakFlops(kernels::Backend& backend);

// Bytes of a parameter of the blocks' linear layers as their forward product reads it, scales
// included, mean over the layers' parameters.
double WeightBytesPerParameter(const TrainingConfig& config);

// Peak resident memory of the process, bytes; 0 where the kernel does not say.
int64_t PeakMemoryBytes();

struct PlannedMemory {
  int64_t total_bytes = 0;      // of weights, gradients, optimiser, activations, checkpoint copy
  int64_t optimizer_bytes = 0;  // of which the optimiser's state
  int64_t parameters = 0;
};

// Of the steps of one process. Not thread-safe.
class EfficiencyMeter {
 public:
  EfficiencyMeter(const TrainingConfig& config, kernels::Backend& backend,
                  const PlannedMemory& memory)
      : config_(config), backend_(backend), memory_(memory) {}

  // After each step. Measures the peak once, after five seconds of steps: short runs are not made
  // longer by it and do not report utilisation.
  absl::Status AddStep(double seconds, int64_t tokens);
  // Of the last step: what changes from step to step and is known.
  std::map<std::string, double> OfStep();
  // Of all of them.
  std::map<std::string, double> OfRun();

 private:
  void AddUtilisation(double tokens_per_second, std::map<std::string, double>* values) const;

  const TrainingConfig& config_;
  kernels::Backend& backend_;
  const PlannedMemory memory_;
  LatencyHistogram latency_;
  EnergyMeter energy_;
  std::optional<double> joules_, joules_before_;
  double peak_flops_ = 0;
  double seconds_ = 0;
  int64_t tokens_ = 0;
  double last_tokens_per_second_ = 0;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_EFFICIENCY_H_
