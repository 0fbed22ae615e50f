// Weights of a checkpoint on a device, for running a model forward.
#ifndef WORKER_INFERENCE_LOAD_WEIGHTS_H_
#define WORKER_INFERENCE_LOAD_WEIGHTS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/model/weights.h"

namespace nibble::inference {

// Without gradients. DATA_LOSS: a tensor of `table` is missing or of another shape, or there are
// others; RESOURCE_EXHAUSTED: the device has no such memory. `table` and `backend` outlive it.
absl::StatusOr<std::unique_ptr<model::Weights>> LoadWeights(const checkpoint::TensorFile& file,
                                                            const model::ParameterTable& table,
                                                            bool bf16_copy,
                                                            kernels::Backend& backend);

}  // namespace nibble::inference

#endif  // WORKER_INFERENCE_LOAD_WEIGHTS_H_
