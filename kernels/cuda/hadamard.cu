// The Hadamard transform by itself, of any size: for transforms that one thread's 16 elements do
// not hold (32, 64, 128), and for tests. A thread a group; 2 or 4 bytes read and as many written an
// element. The groups of 64 and 128 live in local memory: an ablation, not a fast path.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/nvfp4/hadamard.h"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

template <class T, int kSize>
NIBBLE_GLOBAL void TransformKernel(QuantizeJob job) {
  const int64_t across = job.cols / kSize;
  const int64_t index = GlobalThread();
  if (index >= job.rows * across) return;
  // Neighbouring threads take neighbouring elements of the source, as in block_of_16.cuh.
  const int64_t row = job.transpose ? index % job.rows : index / across;
  const int64_t first = (job.transpose ? index / job.rows : index % across) * kSize;
  const T* source = static_cast<const T*>(job.source);
  float g[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    g[i] = ToFloat(job.transpose ? source[(first + i) * job.rows + row]
                                 : source[row * job.cols + first + i]);
  }
  nvfp4::Hadamard(g, kSize, job.signs);
  const int64_t to = row * job.cols + first;
  if (job.output == QuantizeOutput::kBF16) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) Put(static_cast<uint16_t*>(job.out) + to + i, g[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i) Put(static_cast<float*>(job.out) + to + i, g[i]);
  }
}

template <class T>
void LaunchTransform(Stream stream, const QuantizeJob& job) {
  const int size = job.format.hadamard_size;
  const dim3 grid(CeilDiv(job.rows * (job.cols / size), kThreads));
  switch (size) {
    case 4:
      return Launch(grid, kThreads, 0, stream, TransformKernel<T, 4>, job);
    case 16:
      return Launch(grid, kThreads, 0, stream, TransformKernel<T, 16>, job);
    case 32:
      return Launch(grid, kThreads, 0, stream, TransformKernel<T, 32>, job);
    case 64:
      return Launch(grid, kThreads, 0, stream, TransformKernel<T, 64>, job);
    default:
      return Launch(grid, kThreads, 0, stream, TransformKernel<T, 128>, job);
  }
}

}  // namespace

void HadamardTransform(Stream stream, const QuantizeJob& job) {
  WithType(job.source_type, [&](auto type) { LaunchTransform<decltype(type)>(stream, job); });
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
