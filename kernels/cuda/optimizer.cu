// The global norm and AdamW over all parameters in one launch each.
//
// Norm: 4 bytes an element read; a block adds up the squares of a fixed 64 Ki elements in FP64, one
// block adds the blocks' sums in order. AdamW: 16 bytes read and 12 written an element, 2 more for
// the BF16 copy; float4 accesses, arithmetic of kernels/adamw.h (FP32, nothing fused).
#include "kernels/adamw.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

constexpr int64_t kElementsPerBlock = 65536;

// The sum over a block's threads in thread order by halves; valid in thread 0.
NIBBLE_DEVICE double BlockSumOfDoubles(double value) {
  NIBBLE_SHARED double sums[kThreads];
  sums[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

NIBBLE_GLOBAL void SquaresKernel(const float* values, int64_t size, double* partial) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kElementsPerBlock;
  const int64_t end = begin + kElementsPerBlock < size ? begin + kElementsPerBlock : size;
  double sum = 0;
  const bool aligned = IsAligned16(values);
  for (int64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * kThreads) {
    if (aligned && i + 4 <= end) {
      const Words4 words = *reinterpret_cast<const Words4*>(values + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const double x = static_cast<double>(nvfp4::FloatOf(words.v[j]));
        sum += x * x;
      }
    } else {
      for (int64_t j = i; j < i + 4 && j < end; ++j) {
        sum += static_cast<double>(values[j]) * static_cast<double>(values[j]);
      }
    }
  }
  sum = BlockSumOfDoubles(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

NIBBLE_GLOBAL void RootKernel(const double* partial, int64_t parts, float* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) sum += partial[i];
  sum = BlockSumOfDoubles(sum);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

NIBBLE_GLOBAL void AdamWKernel(AdamWArgs args, AdamWCoefficients coefficients) {
  if (args.max_gradient_norm != 0) {
    coefficients.clip = AdamWClip(args.max_gradient_norm, *args.gradient_norm);
  }
  const bool aligned = IsAligned16(args.parameters) && IsAligned16(args.gradients) &&
                       IsAligned16(args.first_moment) && IsAligned16(args.second_moment);
  uint16_t* bf16 = static_cast<uint16_t*>(args.bf16_parameters);
  const int64_t first = GlobalThread() * 4;
  if (first >= args.size) return;
  if (!aligned || first + 4 > args.size) {
    for (int64_t i = first; i < first + 4 && i < args.size; ++i) {
      AdamWUpdate(coefficients, args.gradients[i], args.first_moment[i], args.second_moment[i],
                  args.parameters[i]);
      if (bf16 != nullptr) bf16[i] = nvfp4::F32ToBf16(args.parameters[i]);
    }
    return;
  }
  struct alignas(16) Four {
    float v[4];
  };
  const Four g = *reinterpret_cast<const Four*>(args.gradients + first);
  Four m = *reinterpret_cast<const Four*>(args.first_moment + first);
  Four v = *reinterpret_cast<const Four*>(args.second_moment + first);
  Four p = *reinterpret_cast<const Four*>(args.parameters + first);
#pragma unroll
  for (int i = 0; i < 4; ++i) AdamWUpdate(coefficients, g.v[i], m.v[i], v.v[i], p.v[i]);
  *reinterpret_cast<Four*>(args.first_moment + first) = m;
  *reinterpret_cast<Four*>(args.second_moment + first) = v;
  *reinterpret_cast<Four*>(args.parameters + first) = p;
  if (bf16 == nullptr) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) bf16[first + i] = nvfp4::F32ToBf16(p.v[i]);
}

}  // namespace

int64_t NormScratchBytes(int64_t size) { return (CeilDiv(size, kElementsPerBlock) + 1) * 8; }

void Norm(Stream stream, const float* values, int64_t size, float* norm, void* scratch) {
  const int64_t blocks = CeilDiv(size, kElementsPerBlock);
  double* partial = static_cast<double*>(scratch);
  Launch(dim3(blocks), kThreads, 0, stream, SquaresKernel, values, size, partial);
  Launch(dim3(1), kThreads, 0, stream, RootKernel, static_cast<const double*>(partial), blocks,
         norm);
}

void AdamW(Stream stream, const AdamWArgs& args) {
  Launch(dim3(CeilDiv(CeilDiv(args.size, 4), kThreads)), kThreads, 0, stream, AdamWKernel, args,
         MakeAdamWCoefficients(args, /*clip=*/1.0f));
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
