// The trainable state of a model on a device, as flat buffers of one layout (ParameterTable).
#ifndef WORKER_MODEL_WEIGHTS_H_
#define WORKER_MODEL_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/model/parameter_table.h"

namespace nibble::model {

// Elements moved at a time between host and device when a whole buffer is read or written.
inline constexpr int64_t kStagingElements = int64_t{1} << 20;

// Initial value of element `element` of parameter `index`, a pure function of these and the seed.
// Normal with deviation `std`, by Box and Muller in FP64 from Philox4x32-10: key = seed, counter =
// (low, high 32 bits of element / 4, parameter index, 0xffffffff), so that no counter is one of
// stochastic rounding (docs/numerics.md, section 4), whose last word is a step. With outputs
// a, b, c, d, elements 0 and 1 of the four are
//   sqrt(-2 ln((a + 1) / 2^32)) * cos and sin (2 pi b / 2^32),
// elements 2 and 3 likewise from c and d; times std, rounded once to FP32.
float InitialValue(uint64_t seed, int index, int64_t element, double std);

// Elements [first, first + count) of parameter `index`. Normal ones are those of InitialValue; the
// others take u = (a + 0.5) / 2^32 for element 0 of a counter's four, b, c, d for the next.
// REQUIRES: first is a multiple of 4.
void FillInitialValues(uint64_t seed, int index, const InitialDistribution& initial, int64_t first,
                       int64_t count, float* out);

// kInference: no gradients are kept.
enum class WeightsUse { kTraining, kInference };

// Not thread-safe.
class Weights {
 public:
  // All zeros. `bf16_copy`: keep a BF16 cast of the master weights for products. RESOURCE_EXHAUSTED
  // where the device has no such memory. `table` and `backend` outlive it.
  static absl::StatusOr<std::unique_ptr<Weights>> Create(const ParameterTable& table,
                                                         bool bf16_copy, kernels::Backend& backend,
                                                         WeightsUse use = WeightsUse::kTraining);

  // Every parameter from its distribution, normal ones as InitialValue says. The BF16 copy
  // follows.
  absl::Status Initialise(uint64_t seed);
  // Makes the BF16 copy the cast of the master weights again, after they were written.
  void RefreshBf16();

  const ParameterTable& table() const { return table_; }
  float* master() const { return static_cast<float*>(master_->data()); }
  // REQUIRES: made for training.
  float* gradients() const { return static_cast<float*>(gradients_->data()); }
  // Null without a BF16 copy.
  void* bf16() const { return bf16_ ? bf16_->data() : nullptr; }

  float* MasterOf(int index) const { return master() + table_[index].offset; }
  float* GradientOf(int index) const { return gradients() + table_[index].offset; }
  // A matrix parameter as products read it: from the BF16 copy, or in FP32 from the master weights.
  // REQUIRES: a BF16 copy where `dtype` is kBF16.
  kernels::Matrix MatrixOf(int index, kernels::DType dtype) const;

 private:
  Weights(const ParameterTable& table, kernels::Backend& backend)
      : table_(table), backend_(backend) {}

  const ParameterTable& table_;
  kernels::Backend& backend_;
  std::unique_ptr<kernels::DeviceBuffer> master_, gradients_, bf16_;
};

}  // namespace nibble::model

#endif  // WORKER_MODEL_WEIGHTS_H_
