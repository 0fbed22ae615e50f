// The tensor scales of a product's two operands.
//
// alpha = s_a s_b is one factor nearly always. Where the product of the scales is no normal number
// (both tensors tiny, or huge) it would lose digits, and the two are applied one after the other
// by a plain product here, FP32 sums over k in order; the host cannot know which case it is without
// waiting, so the kernel is always launched and returns at once in the ordinary case.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

constexpr int64_t kMostBlocks = 1024;

NIBBLE_DEVICE bool IsNormal(float value) {
  const uint32_t exponent = (nvfp4::BitsOf(value) >> 23) & 255u;
  return exponent != 0 && exponent != 255u;
}

NIBBLE_DEVICE float ScaleOrOne(const float* scale) { return scale == nullptr ? 1.0f : *scale; }

NIBBLE_GLOBAL void CombineKernel(ScaleJob job) {
  if (threadIdx.x != 0) return;
  const float alpha = ScaleOrOne(job.a) * ScaleOrOne(job.b);
  *job.alpha = job.keep_subnormals || IsNormal(alpha) ? alpha : 0.0f;
}

NIBBLE_GLOBAL void LateScaledKernel(LateScaleJob job) {
  if (*job.scales.alpha != 0) return;
  const uint16_t* a = static_cast<const uint16_t*>(job.a);
  const uint16_t* b = static_cast<const uint16_t*>(job.b);
  const float scale_a = ScaleOrOne(job.scales.a), scale_b = ScaleOrOne(job.scales.b);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = GlobalThread(); i < job.m * job.n; i += step) {
    const int64_t row = i / job.n, col = i % job.n;
    float sum = 0;
    for (int64_t k = 0; k < job.k; ++k) {
      const float x = ToFloat(a[job.a_transposed ? k * job.m + row : row * job.k + k]);
      const float y = ToFloat(b[job.b_transposed ? k * job.n + col : col * job.k + k]);
      sum = fmaf(x, y, sum);
    }
    sum = sum * scale_a * scale_b;
    if (job.c.dtype == DType::kBF16) {
      Put(static_cast<uint16_t*>(job.c.data) + i, sum);
    } else {
      float* c = static_cast<float*>(job.c.data) + i;
      *c = job.accumulate ? *c + sum : sum;
    }
  }
}

}  // namespace

void CombineScales(Stream stream, const ScaleJob& job) {
  Launch(dim3(1), kWarp, 0, stream, CombineKernel, job);
}

void MultiplyLateScaled(Stream stream, const LateScaleJob& job) {
  const int64_t blocks = CeilDiv(job.m * job.n, kThreads);
  Launch(dim3(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0, stream, LateScaledKernel,
         job);
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
