// RMS norm and layer norm with the residual addition before them; formulas in
// kernels/reference/{rms,layer}_norm.cc.
//
// Forward: a block a row; residual and delta are read once, the sum written once and read again
// through the cache for the second pass. Backward: a block takes kRowsPerPart rows one after the
// other and keeps the weight gradient of its rows in shared memory (each thread its own columns);
// the parts are added in order by a second kernel. Sums over a row: FP32, each thread every 256th
// column, then the butterfly of simt.cuh.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

constexpr int kRowsPerPart = 32;

// The row that is normalised: residual + delta, rounded and stored, or the residual itself.
template <class T>
NIBBLE_DEVICE const T* AddResidual(const T* residual, const T* delta, T* sum, int64_t cols) {
  if (delta == nullptr) return residual;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    Put(sum + c, ToFloat(residual[c]) + ToFloat(delta[c]));
  }
  return sum;  // each thread reads again only what it has written itself
}

template <class T>
NIBBLE_GLOBAL void RmsForwardKernel(RmsNormArgs args) {
  const int64_t cols = args.residual.cols;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * cols;
  const T* delta = static_cast<const T*>(args.delta.data);
  const T* x = AddResidual(static_cast<const T*>(args.residual.data) + at,
                           delta == nullptr ? nullptr : delta + at,
                           static_cast<T*>(args.residual_out.data) + at, cols);
  float squares = 0;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float value = ToFloat(x[c]);
    squares += value * value;
  }
  squares = BlockSum<kThreads>(squares);
  const float r = 1.0f / sqrtf(squares / static_cast<float>(cols) + args.epsilon);
  if (threadIdx.x == 0) args.reciprocal_rms[blockIdx.x] = r;
  T* out = static_cast<T*>(args.normed.data) + at;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    Put(out + c, ToFloat(x[c]) * r * args.weight[c]);
  }
}

template <class T>
NIBBLE_GLOBAL void RmsBackwardKernel(RmsNormBackwardArgs args, float* partial) {
  float* d_weight = DynamicShared<float>();
  const int64_t rows = args.input.rows, cols = args.input.cols;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) d_weight[c] = 0;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kRowsPerPart;
  for (int64_t n = begin; n < begin + kRowsPerPart && n < rows; ++n) {
    const T* dy = static_cast<const T*>(args.d_normed.data) + n * cols;
    const T* x = static_cast<const T*>(args.input.data) + n * cols;
    T* dx = static_cast<T*>(args.d_input.data) + n * cols;
    const float r = args.reciprocal_rms[n];
    float dot = 0;
    for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
      const float product = ToFloat(dy[c]) * ToFloat(x[c]);
      dot += args.weight[c] * product;
      d_weight[c] += product * r;
    }
    const float mean = BlockSum<kThreads>(dot) / static_cast<float>(cols);
    for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
      const float d = r * (args.weight[c] * ToFloat(dy[c]) - ToFloat(x[c]) * r * r * mean);
      Put(dx + c, ToFloat(dx[c]) + d);
    }
  }
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    partial[static_cast<int64_t>(blockIdx.x) * cols + c] = d_weight[c];
  }
}

template <class T>
NIBBLE_GLOBAL void LayerForwardKernel(LayerNormArgs args) {
  const int64_t cols = args.residual.cols;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * cols;
  const T* delta = static_cast<const T*>(args.delta.data);
  const T* x = AddResidual(static_cast<const T*>(args.residual.data) + at,
                           delta == nullptr ? nullptr : delta + at,
                           static_cast<T*>(args.residual_out.data) + at, cols);
  float sum = 0;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) sum += ToFloat(x[c]);
  const float mean = BlockSum<kThreads>(sum) / static_cast<float>(cols);
  float squares = 0;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float difference = ToFloat(x[c]) - mean;
    squares += difference * difference;
  }
  squares = BlockSum<kThreads>(squares);
  const float r = 1.0f / sqrtf(squares / static_cast<float>(cols) + args.epsilon);
  if (threadIdx.x == 0) {
    args.mean[blockIdx.x] = mean;
    args.reciprocal_deviation[blockIdx.x] = r;
  }
  T* out = static_cast<T*>(args.normed.data) + at;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    Put(out + c, (ToFloat(x[c]) - mean) * r * args.weight[c] + args.bias[c]);
  }
}

// partial [2, parts, cols]: weight, bias.
template <class T>
NIBBLE_GLOBAL void LayerBackwardKernel(LayerNormBackwardArgs args, float* partial) {
  const int64_t rows = args.input.rows, cols = args.input.cols;
  float* d_weight = DynamicShared<float>();
  float* d_bias = d_weight + cols;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    d_weight[c] = 0;
    d_bias[c] = 0;
  }
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kRowsPerPart;
  for (int64_t n = begin; n < begin + kRowsPerPart && n < rows; ++n) {
    const T* dy = static_cast<const T*>(args.d_normed.data) + n * cols;
    const T* x = static_cast<const T*>(args.input.data) + n * cols;
    T* dx = static_cast<T*>(args.d_input.data) + n * cols;
    const float r = args.reciprocal_deviation[n], mean = args.mean[n];
    float sum = 0, dot = 0;
    for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
      const float d = ToFloat(dy[c]), normed = (ToFloat(x[c]) - mean) * r;
      sum += args.weight[c] * d;
      dot += args.weight[c] * d * normed;
      d_weight[c] += d * normed;
      d_bias[c] += d;
    }
    sum = BlockSum<kThreads>(sum) / static_cast<float>(cols);
    dot = BlockSum<kThreads>(dot) / static_cast<float>(cols);
    for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
      const float normed = (ToFloat(x[c]) - mean) * r;
      Put(dx + c, ToFloat(dx[c]) + r * (args.weight[c] * ToFloat(dy[c]) - sum - normed * dot));
    }
  }
  const int64_t row = static_cast<int64_t>(blockIdx.x) * cols;
  const int64_t bias = static_cast<int64_t>(gridDim.x) * cols;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    partial[row + c] = d_weight[c];
    partial[bias + row + c] = d_bias[c];
  }
}

}  // namespace

int64_t NormBackwardScratchBytes(int64_t rows, int64_t cols) {
  return 2 * CeilDiv(rows, kRowsPerPart) * cols * 4;
}

void RmsNormForward(Stream stream, const RmsNormArgs& args) {
  WithType(args.residual.dtype, [&](auto type) {
    Launch(dim3(args.residual.rows), kThreads, 0, stream, RmsForwardKernel<decltype(type)>, args);
  });
}

void RmsNormBackward(Stream stream, const RmsNormBackwardArgs& args, void* scratch) {
  const int64_t cols = args.input.cols, parts = CeilDiv(args.input.rows, kRowsPerPart);
  float* partial = static_cast<float*>(scratch);
  WithType(args.input.dtype, [&](auto type) {
    Launch(dim3(parts), kThreads, cols * 4, stream, RmsBackwardKernel<decltype(type)>, args,
           partial);
  });
  AddPartials(stream, partial, args.d_weight, cols, parts);
}

void LayerNormForward(Stream stream, const LayerNormArgs& args) {
  WithType(args.residual.dtype, [&](auto type) {
    Launch(dim3(args.residual.rows), kThreads, 0, stream, LayerForwardKernel<decltype(type)>, args);
  });
}

void LayerNormBackward(Stream stream, const LayerNormBackwardArgs& args, void* scratch) {
  const int64_t cols = args.input.cols, parts = CeilDiv(args.input.rows, kRowsPerPart);
  float* partial = static_cast<float*>(scratch);
  WithType(args.input.dtype, [&](auto type) {
    Launch(dim3(parts), kThreads, 2 * cols * 4, stream, LayerBackwardKernel<decltype(type)>, args,
           partial);
  });
  AddPartials(stream, partial, args.d_weight, cols, parts);
  AddPartials(stream, partial + parts * cols, args.d_bias, cols, parts);
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
