// What updates the weights of a model, with whatever it remembers between updates.
#ifndef WORKER_OPTIMIZER_OPTIMIZER_H_
#define WORKER_OPTIMIZER_OPTIMIZER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "worker/model/parameter_table.h"

namespace nibble::optimizer {

// What an update changes and reads: flat buffers of the table's layout, device pointers.
struct FlatParameters {
  const model::ParameterTable* table = nullptr;  // outlives the optimiser
  float* master = nullptr;
  const float* gradients = nullptr;
  void* bf16 = nullptr;  // null: none
};

// A tensor of the state, on the device, with its name in a checkpoint's optimizer.safetensors.
struct StateTensor {
  std::string name;
  std::vector<int64_t> shape;
  float* values = nullptr;
  int64_t size = 0;
};

// Not thread-safe.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // Leaves the norm of the gradients, before clipping, in gradient_norm().
  virtual void MeasureGradients() = 0;
  // Update number `step`, from 1, with this learning rate; the host does not wait for anything.
  // Allocates nothing. REQUIRES: MeasureGradients() of the same gradients.
  virtual void Update(int64_t step, double learning_rate) = 0;

  // Everything that the next update depends on beside weights, gradients and step, always in the
  // same order: what a checkpoint keeps, and what the digest of a run is over. All zero at first.
  virtual std::vector<StateTensor> State() const = 0;
  // Device memory of the optimiser, bytes.
  virtual int64_t state_bytes() const = 0;

  // One float on the device.
  virtual const float* gradient_norm() const = 0;
};

}  // namespace nibble::optimizer

#endif  // WORKER_OPTIMIZER_OPTIMIZER_H_
