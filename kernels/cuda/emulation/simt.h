// Runs CUDA kernels on the host, so that tests execute them where there is no GPU. A kernel's
// source is compiled as C++ against this header: blocks run one after the other, the threads of a
// block as fibers that switch at barriers and warp exchanges only.
//
// The order in which threads run between two barriers is a choice (SetThreadOrder): a result that
// depends on it is a missing barrier. Memory from DynamicShared is filled with a pattern before
// every block, so that reading what nobody wrote shows.
//
// Not emulated: timing, memory models, blocks at the same time, integer atomics' interleaving.
// One host thread may run kernels at a time (shared variables are static ones).
#ifndef KERNELS_CUDA_EMULATION_SIMT_H_
#define KERNELS_CUDA_EMULATION_SIMT_H_

#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>

#define NIBBLE_GLOBAL
#define NIBBLE_DEVICE inline
#define NIBBLE_SHARED static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(int64_t x_in, int64_t y_in = 1, int64_t z_in = 1)  // NOLINT: as CUDA's
      : x(static_cast<unsigned>(x_in)),
        y(static_cast<unsigned>(y_in)),
        z(static_cast<unsigned>(z_in)) {}
};

namespace nibble::kernels::cuda {

enum class ThreadOrder { kForward, kReverse, kShuffled };
// Of launches from here on.
void SetThreadOrder(ThreadOrder order);
// Blocks that have run since the program started.
int64_t EmulatedBlocks();

namespace emulation {
struct Indices {
  dim3 thread, block, block_dim, grid_dim;
};
extern Indices current;

void RunGrid(dim3 grid, int threads, int64_t shared_bytes, const std::function<void()>& body);
void* SharedMemory();
void BlockBarrier();
void WarpBarrier();
// Gives `bits` to the warp and returns lane `from_lane`'s.
uint64_t Exchange(uint64_t bits, int from_lane);
int Lane();
}  // namespace emulation

template <class T>
T* DynamicShared() {
  return static_cast<T*>(emulation::SharedMemory());
}

template <class... P, class... A>
void Launch(dim3 grid, int threads, int64_t shared_bytes, void* stream, void (*kernel)(P...),
            A... args) {
  static_cast<void>(stream);
  emulation::RunGrid(grid, threads, shared_bytes, [&] { kernel(static_cast<P>(args)...); });
}

}  // namespace nibble::kernels::cuda

#define threadIdx (::nibble::kernels::cuda::emulation::current.thread)
#define blockIdx (::nibble::kernels::cuda::emulation::current.block)
#define blockDim (::nibble::kernels::cuda::emulation::current.block_dim)
#define gridDim (::nibble::kernels::cuda::emulation::current.grid_dim)

inline void __syncthreads() { ::nibble::kernels::cuda::emulation::BlockBarrier(); }
inline void __syncwarp() { ::nibble::kernels::cuda::emulation::WarpBarrier(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  namespace e = ::nibble::kernels::cuda::emulation;
  bits = e::Exchange(bits, e::Lane() ^ lanes);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = ::nibble::kernels::cuda::emulation::Exchange(bits, lane);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned atomicMax(unsigned* to, unsigned value) {
  const unsigned before = *to;
  if (value > before) *to = value;
  return before;
}

#endif  // KERNELS_CUDA_EMULATION_SIMT_H_
