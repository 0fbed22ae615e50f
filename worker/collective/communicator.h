// How the ranks of one attempt exchange tensors.
#ifndef WORKER_COLLECTIVE_COMMUNICATOR_H_
#define WORKER_COLLECTIVE_COMMUNICATOR_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace nibble::collective {

// Every rank calls the same operations in the same order with the same sizes. Operations are
// enqueued on the backend's stream; buffers are FP32 on the device. The order of summation is fixed
// by the ranks' numbers, so results are the same bits every time.
// UNAVAILABLE: another rank is gone. Not thread-safe.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // values[i] becomes the sum over the ranks. [count]
  virtual absl::Status AllReduceSum(float* values, int64_t count) = 0;
  // out[i] = sum over the ranks of in[rank() * count + i]. in [size() * count], out [count].
  virtual absl::Status ReduceScatterSum(const float* in, float* out, int64_t count) = 0;
  // out[r * count + i] = in[i] of rank r. in [count], out [size() * count].
  virtual absl::Status AllGather(const float* in, float* out, int64_t count) = 0;
  // values of rank `root` on every rank. [count]
  virtual absl::Status Broadcast(float* values, int64_t count, int root) = 0;
};

// One rank alone. `backend` outlives it.
std::unique_ptr<Communicator> SingleProcessCommunicator(kernels::Backend& backend);

}  // namespace nibble::collective

#endif  // WORKER_COLLECTIVE_COMMUNICATOR_H_
