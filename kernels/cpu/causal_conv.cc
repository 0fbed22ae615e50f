// Depthwise causal convolution and SiLU of a Mamba-2 layer; formulas in
// kernels/reference/causal_conv.cc.
//
// A tile is kChannels channels of one sequence: backward needs the gradients of later tokens. The
// weights' gradients of a tile are sums over its tokens; sequences are added in order.
#include "base/check.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/tile_sums.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

constexpr int64_t kChannels = 64;
constexpr int64_t kMaxWidth = 8;

// The weights of sixteen channels, a lane each, and their bias.
struct LaneWeights {
  F32x16 weight[kMaxWidth];
  F32x16 bias;
};

NIBBLE_SIMD LaneWeights WeightsOf(const MambaShape& shape, const float* weight, const float* bias,
                                  int64_t channel, int64_t count) {
  LaneWeights result;
  for (int64_t k = 0; k < shape.conv_width; ++k) {
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = weight[(channel + i) * shape.conv_width + k];
    result.weight[k] = Load(lanes);
  }
  result.bias = LoadLanes<false>(bias, channel, count);
  return result;
}

// One sequence's columns of [x | B | C].
struct Columns {
  const MambaShape& shape;
  const void* projected;
  int64_t sequence;

  NIBBLE_INLINE int64_t Row(int64_t t) const { return sequence * shape.sequence_length + t; }
  NIBBLE_INLINE int64_t At(int64_t t, int64_t channel) const {
    return Row(t) * shape.projected_width() + shape.inner() + channel;
  }
};

template <bool kBf16>
NIBBLE_SIMD F32x16 Pre(const Columns& columns, const LaneWeights& weights, int64_t t,
                       int64_t channel, int64_t count) {
  const int64_t width = columns.shape.conv_width;
  F32x16 sum = weights.bias;
  for (int64_t k = Larger(0, width - 1 - t); k < width; ++k) {
    sum =
        sum + weights.weight[k] * LoadLanes<kBf16>(columns.projected,
                                                   columns.At(t - (width - 1) + k, channel), count);
  }
  return sum;
}

template <bool kBf16>
void ForwardLanes(const CausalConvArgs& args, const Columns& columns, int64_t channel,
                  int64_t count) {
  const LaneWeights weights = WeightsOf(args.shape, args.weight, args.bias, channel, count);
  for (int64_t t = 0; t < args.shape.sequence_length; ++t) {
    const F32x16 pre = Pre<kBf16>(columns, weights, t, channel, count);
    const F32x16 out = pre / (Set1(1.0f) + Exp(Zero() - pre));
    StoreLanes<kBf16>(args.out.data, columns.Row(t) * args.out.cols + channel, out, count);
  }
}

// d_pre [sequence_length, 16]: the thread's memory. `partial` [conv_width + 1, channels]: the
// sequence's gradients of the weights, then of the bias.
template <bool kBf16>
void BackwardLanes(const CausalConvBackwardArgs& args, const Columns& columns, int64_t channel,
                   int64_t count, float* d_pre, float* partial) {
  const MambaShape& shape = args.shape;
  const int64_t width = shape.conv_width, length = shape.sequence_length;
  const LaneWeights weights = WeightsOf(shape, args.weight, args.bias, channel, count);
  F32x16 d_weight[kMaxWidth] = {}, d_bias = Zero();
  const F32x16 one = Set1(1.0f);
  for (int64_t t = 0; t < length; ++t) {
    const F32x16 pre = Pre<kBf16>(columns, weights, t, channel, count);
    const F32x16 sigmoid = one / (one + Exp(Zero() - pre));
    const F32x16 dy =
        LoadLanes<kBf16>(args.d_out.data, columns.Row(t) * args.d_out.cols + channel, count);
    const F32x16 gradient = dy * sigmoid * (one + pre * (one - sigmoid));
    Store(d_pre + t * kLanes, gradient);
    d_bias = d_bias + gradient;
    for (int64_t k = Larger(0, width - 1 - t); k < width; ++k) {
      d_weight[k] = d_weight[k] +
                    gradient * LoadLanes<kBf16>(columns.projected,
                                                columns.At(t - (width - 1) + k, channel), count);
    }
  }
  for (int64_t t = 0; t < length; ++t) {
    F32x16 d_in = Zero();
    for (int64_t k = Larger(0, t + width - length); k < width; ++k) {
      d_in = d_in + weights.weight[k] * Load(d_pre + (t + width - 1 - k) * kLanes);
    }
    StoreLanes<kBf16>(args.d_projected.data, columns.At(t, channel), d_in, count);
  }
  for (int64_t k = 0; k < width; ++k) {
    StoreLanes<false>(partial, k * shape.channels() + channel, d_weight[k], count);
  }
  StoreLanes<false>(partial, width * shape.channels() + channel, d_bias, count);
}

}  // namespace

void CausalConvForward(OpContext& context, const CausalConvArgs& args) {
  const MambaShape& shape = args.shape;
  NIBBLE_CHECK(shape.conv_width >= 1 && shape.conv_width <= kMaxWidth);
  const int64_t blocks = TileCount(shape.channels(), kChannels);
  ParallelFor(context.pool, shape.sequences * blocks, [&](int64_t tile, int) {
    const Columns columns{shape, args.projected.data, tile / blocks};
    const int64_t begin = tile % blocks * kChannels;
    const int64_t end = Smaller(shape.channels(), begin + kChannels);
    for (int64_t c = begin; c < end; c += kLanes) {
      const int64_t count = Smaller(kLanes, end - c);
      if (args.out.dtype == DType::kBF16) {
        ForwardLanes<true>(args, columns, c, count);
      } else {
        ForwardLanes<false>(args, columns, c, count);
      }
    }
  });
}

void CausalConvBackward(OpContext& context, const CausalConvBackwardArgs& args) {
  const MambaShape& shape = args.shape;
  NIBBLE_CHECK(shape.conv_width >= 1 && shape.conv_width <= kMaxWidth);
  const int64_t channels = shape.channels(), width = shape.conv_width;
  const int64_t blocks = TileCount(channels, kChannels);
  const int64_t stride = (width + 1) * channels;
  float* partial = static_cast<float*>(context.scratch.Shared(shape.sequences * stride * 4));
  ParallelFor(context.pool, shape.sequences * blocks, [&](int64_t tile, int thread) {
    float* d_pre =
        static_cast<float*>(context.scratch.ForThread(thread, shape.sequence_length * kLanes * 4));
    const Columns columns{shape, args.projected.data, tile / blocks};
    float* sums = partial + tile / blocks * stride;
    const int64_t begin = tile % blocks * kChannels;
    const int64_t end = Smaller(channels, begin + kChannels);
    for (int64_t c = begin; c < end; c += kLanes) {
      const int64_t count = Smaller(kLanes, end - c);
      if (args.d_out.dtype == DType::kBF16) {
        BackwardLanes<true>(args, columns, c, count, d_pre, sums);
      } else {
        BackwardLanes<false>(args, columns, c, count, d_pre, sums);
      }
    }
  });
  AddTileSums(context, partial + width * channels, shape.sequences, stride, channels, args.d_bias);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < width; ++k) {
      float sum = args.d_weight[c * width + k];
      for (int64_t s = 0; s < shape.sequences; ++s) {
        sum += partial[s * stride + k * channels + c];
      }
      args.d_weight[c * width + k] = sum;
    }
  }
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
