// Cross-entropy over rows of logits, and their gradient in place of them.
//
// A block a row: reads the logits twice (maximum and sum in one pass, online), writes the gradient
// over them as the activations' type: 8 bytes read and 2 (4) written an element, no second
// vocabulary-sized tensor. The logits' FP32 row becomes a row of half the bytes: a chunk of
// 256 logits is read by all threads before any of them writes, and writes never reach beyond what
// was read.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

NIBBLE_DEVICE float Capped(float logit, float cap) {
  return cap == 0 ? logit : cap * tanhf(logit / cap);
}

// log sum exp of a row.
NIBBLE_DEVICE float RowLogSumExp(const float* logits, int64_t cols, float cap) {
  float max = -INFINITY, sum = 0;
  for (int64_t v = threadIdx.x; v < cols; v += kThreads) {
    const float logit = Capped(logits[v], cap);
    if (logit > max) {
      sum = sum * expf(max - logit) + 1.0f;
      max = logit;
    } else {
      sum += expf(logit - max);
    }
  }
  const float row_max = BlockMax<kThreads>(max);
  // A thread without columns has nothing: exp(-inf - row_max) is 0 unless the row is -inf itself.
  const float share = max == -INFINITY && sum == 0 ? 0.0f : sum * expf(max - row_max);
  return row_max + logf(BlockSum<kThreads>(share));
}

template <class T>
NIBBLE_GLOBAL void CrossEntropyKernel(LmHeadArgs args, LossRows rows, int64_t vocabulary) {
  const int64_t n = rows.first_row + blockIdx.x;
  float* logits = rows.logits + static_cast<int64_t>(blockIdx.x) * rows.stride;
  T* gradient = reinterpret_cast<T*>(logits);
  const bool backward = args.d_x.data != nullptr;
  const int32_t target = args.targets[n];
  if (target < 0) {
    if (threadIdx.x == 0) {
      args.losses[n] = 0;
      if (args.log_sum_exp != nullptr) args.log_sum_exp[n] = 0;
    }
    for (int64_t v = threadIdx.x; backward && v < vocabulary; v += kThreads)
      Put(gradient + v, 0.0f);
    return;
  }
  const float cap = args.logit_softcap;
  const float z = RowLogSumExp(logits, vocabulary, cap);
  if (threadIdx.x == 0) {
    args.losses[n] = z - Capped(logits[target], cap);
    if (args.log_sum_exp != nullptr) args.log_sum_exp[n] = z;
  }
  if (!backward) return;
  __syncthreads();  // the target's logit was read
  const float scale = args.loss_scale * (args.row_scales == nullptr ? 1.0f : args.row_scales[n]);
  const float softmax_factor = 1.0f + 2.0f * args.z_loss * z;
  for (int64_t first = 0; first < vocabulary; first += kThreads) {
    const int64_t v = first + threadIdx.x;
    float d = 0;
    if (v < vocabulary) {
      const float logit = Capped(logits[v], cap);
      d = (softmax_factor * expf(logit - z) - (v == target ? 1.0f : 0.0f)) * scale;
      if (cap != 0) d *= 1.0f - (logit / cap) * (logit / cap);
    }
    __syncthreads();
    if (v < vocabulary) Put(gradient + v, d);
    // The next chunk's logits lie beyond what was just written, by this chunk's size at least
    // where T is half as wide; where it is FP32, each thread writes what it has read.
  }
}

}  // namespace

void CrossEntropy(Stream stream, const LmHeadArgs& args, const LossRows& rows) {
  WithType(args.x.dtype, [&](auto type) {
    Launch(dim3(rows.rows), kThreads, 0, stream, CrossEntropyKernel<decltype(type)>, args, rows,
           args.weight.rows);
  });
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
