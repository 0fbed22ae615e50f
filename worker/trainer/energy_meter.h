// Energy that the processor packages have drawn, by the kernel's power capping interface (RAPL).
// https://docs.kernel.org/power/powercap/powercap.html
#ifndef WORKER_TRAINER_ENERGY_METER_H_
#define WORKER_TRAINER_ENERGY_METER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nibble::trainer {

// Not thread-safe.
class EnergyMeter {
 public:
  // Finds the package domains (intel-rapl:N; their parts would count twice) under `root`. Without a
  // readable one, as in most virtual machines and for users other than root, Joules() is empty.
  explicit EnergyMeter(const std::string& root = "/sys/class/powercap");

  // Since the meter was made. Counters wrap within minutes to hours: call at least so often. The
  // whole machine's packages count, whatever else runs on them.
  std::optional<double> Joules();

 private:
  struct Domain {
    std::string path;
    int64_t range_microjoules = 0;  // where the counter wraps
    int64_t last_microjoules = 0;
  };
  std::vector<Domain> domains_;
  double microjoules_ = 0;
};

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_ENERGY_METER_H_
