// The gated RMS norm of a Mamba-2 layer; formulas in kernels/reference/gated_norm.cc. Geometry and
// sums as in norms.cu; a block's row is one group of one token.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/simt.cuh"

namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET {
namespace {

constexpr int kTokensPerPart = 32;

NIBBLE_DEVICE float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T>
NIBBLE_GLOBAL void ForwardKernel(GatedNormArgs args) {
  const MambaShape& shape = args.shape;
  const int64_t width = shape.group_width();
  const int64_t n = blockIdx.x, group = blockIdx.y;
  const T* y = static_cast<const T*>(args.y.data) + n * shape.inner() + group * width;
  const T* z =
      static_cast<const T*>(args.projected.data) + n * shape.projected_width() + group * width;
  T* out = static_cast<T*>(args.out.data) + n * shape.inner() + group * width;
  const float* weight = args.weight + group * width;
  float squares = 0;
  for (int64_t c = threadIdx.x; c < width; c += kThreads) {
    const float gate = ToFloat(z[c]);
    const float g = ToFloat(y[c]) * gate * Sigmoid(gate);
    squares += g * g;
  }
  squares = BlockSum<kThreads>(squares);
  const float r = 1.0f / sqrtf(squares / static_cast<float>(width) + args.epsilon);
  if (threadIdx.x == 0) args.reciprocal_rms[n * shape.groups + group] = r;
  for (int64_t c = threadIdx.x; c < width; c += kThreads) {
    const float gate = ToFloat(z[c]);
    Put(out + c, ToFloat(y[c]) * gate * Sigmoid(gate) * r * weight[c]);
  }
}

// partial [parts, inner].
template <class T>
NIBBLE_GLOBAL void BackwardKernel(GatedNormBackwardArgs args, float* partial) {
  float* d_weight = DynamicShared<float>();
  const MambaShape& shape = args.shape;
  const int64_t width = shape.group_width(), tokens = shape.tokens();
  const int64_t group = blockIdx.y, offset = group * width;
  const float* weight = args.weight + offset;
  for (int64_t c = threadIdx.x; c < width; c += kThreads) d_weight[c] = 0;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTokensPerPart;
  for (int64_t n = begin; n < begin + kTokensPerPart && n < tokens; ++n) {
    const T* dout = static_cast<const T*>(args.d_out.data) + n * shape.inner() + offset;
    const T* y = static_cast<const T*>(args.y.data) + n * shape.inner() + offset;
    const T* z = static_cast<const T*>(args.projected.data) + n * shape.projected_width() + offset;
    T* dy = static_cast<T*>(args.d_y.data) + n * shape.inner() + offset;
    T* dz = static_cast<T*>(args.d_projected.data) + n * shape.projected_width() + offset;
    const float r = args.reciprocal_rms[n * shape.groups + group];
    float dot = 0;
    for (int64_t c = threadIdx.x; c < width; c += kThreads) {
      const float gate = ToFloat(z[c]), d = ToFloat(dout[c]);
      const float g = ToFloat(y[c]) * gate * Sigmoid(gate);
      dot += weight[c] * d * g;
      d_weight[c] += d * g * r;
    }
    const float mean = BlockSum<kThreads>(dot) / static_cast<float>(width);
    for (int64_t c = threadIdx.x; c < width; c += kThreads) {
      const float gate = ToFloat(z[c]), sigmoid = Sigmoid(gate), value = ToFloat(y[c]);
      const float g = value * gate * sigmoid;
      const float d_gated = r * (weight[c] * ToFloat(dout[c]) - g * r * r * mean);
      Put(dz + c, d_gated * value * sigmoid * (1.0f + gate * (1.0f - sigmoid)));
      Put(dy + c, d_gated * gate * sigmoid);
    }
  }
  for (int64_t c = threadIdx.x; c < width; c += kThreads) {
    partial[static_cast<int64_t>(blockIdx.x) * shape.inner() + offset + c] = d_weight[c];
  }
}

}  // namespace

void GatedNormForward(Stream stream, const GatedNormArgs& args) {
  WithType(args.y.dtype, [&](auto type) {
    Launch(dim3(args.shape.tokens(), args.shape.groups), kThreads, 0, stream,
           ForwardKernel<decltype(type)>, args);
  });
}

void GatedNormBackward(Stream stream, const GatedNormBackwardArgs& args, void* scratch) {
  const int64_t parts = CeilDiv(args.shape.tokens(), kTokensPerPart);
  float* partial = static_cast<float*>(scratch);
  WithType(args.y.dtype, [&](auto type) {
    Launch(dim3(parts, args.shape.groups), kThreads, args.shape.group_width() * 4, stream,
           BackwardKernel<decltype(type)>, args, partial);
  });
  AddPartials(stream, partial, args.d_weight, args.shape.inner(), parts);
}

}  // namespace nibble::kernels::cuda::NIBBLE_CUDA_TARGET
