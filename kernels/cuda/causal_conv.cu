// Depthwise causal convolution and SiLU of a Mamba-2 layer; formulas in
// kernels/reference/causal_conv.cc.
//
// Forward: a thread an element (conv_width inputs, from the cache). Backward: d_pre = d_out
// silu'(pre) goes to FP32 scratch first; then a thread an element of d_in; the weight gradients are
// summed by a thread a channel over parts of kTokensPerPart tokens, the parts then in order.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

constexpr int64_t kTokensPerPart = 64;

// The input at token t of a sequence whose first row is `first_row`.
template <class T>
NIBBLE_DEVICE float InputAt(const MambaShape& shape, const T* projected, int64_t first_row,
                            int64_t t, int64_t channel) {
  if (t < 0) return 0;
  return ToFloat(projected[(first_row + t) * shape.projected_width() + shape.inner() + channel]);
}

template <class T>
NIBBLE_DEVICE float Pre(const MambaShape& shape, const T* projected, const float* weight,
                        const float* bias, int64_t n, int64_t channel) {
  const int64_t t = n % shape.sequence_length, first_row = n - t;
  float sum = bias[channel];
  for (int64_t k = 0; k < shape.conv_width; ++k) {
    sum += weight[channel * shape.conv_width + k] *
           InputAt(shape, projected, first_row, t - (shape.conv_width - 1) + k, channel);
  }
  return sum;
}

template <class T>
NIBBLE_GLOBAL void ForwardKernel(CausalConvArgs args) {
  const int64_t index = GlobalThread();
  const int64_t channels = args.shape.channels();
  if (index >= args.shape.tokens() * channels) return;
  const float pre = Pre(args.shape, static_cast<const T*>(args.projected.data), args.weight,
                        args.bias, index / channels, index % channels);
  Put(static_cast<T*>(args.out.data) + index, pre / (1.0f + expf(-pre)));
}

template <class T>
NIBBLE_GLOBAL void PreGradientKernel(CausalConvBackwardArgs args, float* d_pre) {
  const int64_t index = GlobalThread();
  const int64_t channels = args.shape.channels();
  if (index >= args.shape.tokens() * channels) return;
  const float pre = Pre(args.shape, static_cast<const T*>(args.projected.data), args.weight,
                        args.bias, index / channels, index % channels);
  const float sigmoid = 1.0f / (1.0f + expf(-pre));
  d_pre[index] = ToFloat(static_cast<const T*>(args.d_out.data)[index]) * sigmoid *
                 (1.0f + pre * (1.0f - sigmoid));
}

template <class T>
NIBBLE_GLOBAL void InputGradientKernel(CausalConvBackwardArgs args, const float* d_pre) {
  const MambaShape& shape = args.shape;
  const int64_t index = GlobalThread();
  const int64_t channels = shape.channels(), width = shape.conv_width;
  if (index >= shape.tokens() * channels) return;
  const int64_t n = index / channels, channel = index % channels;
  const int64_t t = n % shape.sequence_length;
  float sum = 0;
  for (int64_t k = width - 1; k >= 0; --k) {
    const int64_t later = t + width - 1 - k;
    if (later >= shape.sequence_length) break;
    sum += args.weight[channel * width + k] * d_pre[(n - t + later) * channels + channel];
  }
  Put(static_cast<T*>(args.d_projected.data) + n * shape.projected_width() + shape.inner() +
          channel,
      sum);
}

// partial [parts, channels * conv_width], then [parts, channels].
template <class T>
NIBBLE_GLOBAL void WeightGradientKernel(CausalConvBackwardArgs args, const float* d_pre,
                                        float* d_weight, float* d_bias) {
  const MambaShape& shape = args.shape;
  const int64_t channels = shape.channels(), width = shape.conv_width;
  const int64_t index = GlobalThread();
  if (index >= channels * (width + 1)) return;
  const int64_t k = index / channels, channel = index % channels;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kTokensPerPart;
  const int64_t end =
      begin + kTokensPerPart < shape.tokens() ? begin + kTokensPerPart : shape.tokens();
  const T* projected = static_cast<const T*>(args.projected.data);
  float sum = 0;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t t = n % shape.sequence_length;
    const float factor =
        k == width ? 1.0f : InputAt(shape, projected, n - t, t - (width - 1) + k, channel);
    sum += d_pre[n * channels + channel] * factor;
  }
  const int64_t part = blockIdx.y;
  if (k == width) {
    d_bias[part * channels + channel] = sum;
  } else {
    d_weight[(part * channels + channel) * width + k] = sum;
  }
}

int64_t Parts(const MambaShape& shape) { return CeilDiv(shape.tokens(), kTokensPerPart); }

}  // namespace

void CausalConvForward(Stream stream, const CausalConvArgs& args) {
  const dim3 grid(CeilDiv(args.shape.tokens() * args.shape.channels(), kThreads));
  WithType(args.out.dtype, [&](auto type) {
    Launch(grid, kThreads, 0, stream, ForwardKernel<decltype(type)>, args);
  });
}

int64_t CausalConvScratchBytes(const MambaShape& shape) {
  return (shape.tokens() + Parts(shape) * (shape.conv_width + 1)) * shape.channels() * 4;
}

void CausalConvBackward(Stream stream, const CausalConvBackwardArgs& args, void* scratch) {
  const MambaShape& shape = args.shape;
  const int64_t channels = shape.channels(), parts = Parts(shape);
  float* d_pre = static_cast<float*>(scratch);
  float* d_weight = d_pre + shape.tokens() * channels;
  float* d_bias = d_weight + parts * channels * shape.conv_width;
  const dim3 elements(CeilDiv(shape.tokens() * channels, kThreads));
  const dim3 weights(CeilDiv(channels * (shape.conv_width + 1), kThreads), parts);
  WithType(args.d_out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(elements, kThreads, 0, stream, PreGradientKernel<T>, args, d_pre);
    Launch(elements, kThreads, 0, stream, InputGradientKernel<T>, args,
           static_cast<const float*>(d_pre));
    Launch(weights, kThreads, 0, stream, WeightGradientKernel<T>, args,
           static_cast<const float*>(d_pre), d_weight, d_bias);
  });
  AddPartials(stream, d_weight, args.d_weight, channels * shape.conv_width, parts);
  AddPartials(stream, d_bias, args.d_bias, channels, parts);
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
