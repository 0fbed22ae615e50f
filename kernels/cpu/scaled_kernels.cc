#include "kernels/cpu/scaled_kernels.h"

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/quantize_lanes.h"
#include "kernels/nvfp4/block_scales.h"
#include "kernels/nvfp4/e2m1.h"
#include "kernels/nvfp4/e5m2.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

// ---- elements: values on the grid nearest to y (ties to even), saturated, signs kept ----

// A grid whose step is 2^-kMantissaBits of the power of two below, and constant under `least`.
template <int kMantissaBits>
NIBBLE_SIMD F32x16 RoundToGrid(F32x16 y, float largest, float least) {
  const F32x16 a = Min(Abs(y), Set1(largest));
  const I32x16 power = BitsOf(Max(a, Set1(least))) & Set1I(0x7f800000);
  // Adding 1.5 * 2^23 steps rounds to a multiple of the step.
  const F32x16 magic = FloatOf(power + Set1I(((23 - kMantissaBits) << 23) + 0x400000));
  const F32x16 rounded = (a + magic) - magic;
  return FloatOf(BitsOf(rounded) | (BitsOf(y) & Set1I(INT32_MIN)));
}

struct E2m1 {
  NIBBLE_SIMD F32x16 Nearest(F32x16 y) { return NearestE2m1(y); }
};
struct E4m3 {
  NIBBLE_SIMD F32x16 Nearest(F32x16 y) {
    return RoundToGrid<3>(y, nvfp4::kE4m3Max, nvfp4::kE4m3MinNormal);
  }
};
struct E5m2 {
  NIBBLE_SIMD F32x16 Nearest(F32x16 y) {
    return RoundToGrid<2>(y, nvfp4::kE5m2Max, nvfp4::kE5m2MinNormal);
  }
};

// ---- memory ----

// `Out`: float or uint16_t.
template <class Out>
NIBBLE_SIMD void Write(Out* to, F32x16 value, int64_t count) {
  StoreLanes<sizeof(Out) == 2>(to, 0, value, count);
}

template <class Source, class Out>
struct Views {
  const typename Source::Element* in;
  Out* out;
};
template <class Source, class Out>
NIBBLE_SIMD Views<Source, Out> ViewsAt(const ScaledJob& job, int64_t row, int64_t col) {
  const int64_t at = row * job.cols + col;
  return {static_cast<const typename Source::Element*>(job.source) + at,
          static_cast<Out*>(job.out) + at};
}

template <class Source>
NIBBLE_SIMD F32x16 Read(const typename Source::Element* from, int64_t count) {
  return count == kLanes ? Source::Read(from) : Source::ReadPart(from, count);
}

// ---- scales ----

NIBBLE_SIMD nvfp4::BlockScale ScaleOf(const ScaledJob& job, uint32_t amax_bits) {
  const float amax = nvfp4::FloatOf(amax_bits);
  if (job.rule == ScaleRule::kTensor) return {job.encode, 1.0f};
  if (job.rule == ScaleRule::kPowerOfTwo) return nvfp4::PowerOfTwoScaleOf(amax, nvfp4::kE4m3Max);
  return nvfp4::E8m0ScaleOf(
      amax, job.element == ElementType::kE2m1 ? 1.0f / nvfp4::kE2m1Max : 1.0f / nvfp4::kE4m3Max);
}

// ---- kRow ----

template <class Source>
static uint32_t RowMax(const typename Source::Element* in, int64_t width) {
  I32x16 largest = {};
  ForLanes(0, width, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
    largest = MaxI(largest, MagnitudeBits(Read<Source>(in + i, count)));
  });
  return LargestLane(largest);
}

template <class Source, class Out, class Element>
static void NearestRow(const ScaledJob& job, int64_t row) {
  const int64_t block = job.rule == ScaleRule::kTensor ? job.cols : job.block;
  for (int64_t col = 0; col < job.cols; col += block) {
    const int64_t width = Smaller(block, job.cols - col);
    const auto [in, out] = ViewsAt<Source, Out>(job, row, col);
    const nvfp4::BlockScale scale =
        ScaleOf(job, job.rule == ScaleRule::kTensor ? 0 : RowMax<Source>(in, width));
    const F32x16 encode = Set1(scale.encode), decode = Set1(scale.decode);
    const auto* from = in;
    Out* to = out;
    ForLanes(0, width, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
      Write(to + i, Element::Nearest(Read<Source>(from + i, count) * encode) * decode, count);
    });
  }
}

// Columns are a multiple of 16. Sixteen groups' bytes are drawn at a time.
template <class Source, class Out>
static void StochasticRow(const ScaledJob& job, int64_t row) {
  uint8_t bytes[256];
  nvfp4::BlockScale scale = {};
  for (int64_t col = 0; col < job.cols; col += 16) {
    const auto [in, out] = ViewsAt<Source, Out>(job, row, col);
    if (col % job.block == 0) {
      scale = ScaleOf(job, RowMax<Source>(in, Smaller(job.block, job.cols - col)));
    }
    if (col % 256 == 0) {
      BlockIndices indices;
      for (int i = 0; i < 16; ++i) SetIndex(&indices, i, BlockIndex(job.key, row, col / 16 + i));
      BytesByBlock(Draw(job.key, indices), bytes);
    }
    const F32x16 y = Source::Read(in) * Set1(scale.encode);
    Write(out, StochasticE2m1(y, WidenBytes(bytes + col % 256)) * Set1(scale.decode), kLanes);
  }
}

template <class Source, class Out, class Element>
static void QuantizeRows(const ScaledJob& job, BandRange bands) {
  const int64_t last = Smaller(bands.last * BandRows(job), job.rows);
  for (int64_t row = bands.first * BandRows(job); row < last; ++row) {
    job.stochastic ? StochasticRow<Source, Out>(job, row)
                   : NearestRow<Source, Out, Element>(job, row);
  }
}

// ---- kColumn: lanes are columns ----

struct LaneScales {
  F32x16 encode, decode;
};
NIBBLE_SIMD LaneScales ScalesOfLanes(const ScaledJob& job, I32x16 amax) {
  int32_t bits[16];
  float encode[16], decode[16];
  StoreI(bits, amax);
  for (int i = 0; i < 16; ++i) {
    const nvfp4::BlockScale scale = ScaleOf(job, static_cast<uint32_t>(bits[i]));
    encode[i] = scale.encode;
    decode[i] = scale.decode;
  }
  return {Load(encode), Load(decode)};
}

template <class Source, class Out, class Element>
static void QuantizeColumns(const ScaledJob& job, BandRange bands) {
  for (int64_t band = bands.first; band < bands.last; ++band) {
    const int64_t first = band * job.block;
    const int64_t height = Smaller(job.block, job.rows - first);
    for (int64_t col = 0; col < job.cols; col += 16) {
      const int64_t count = Smaller(kLanes, job.cols - col);
      const auto [in, out] = ViewsAt<Source, Out>(job, first, col);
      I32x16 amax = {};
      for (int64_t r = 0; r < height; ++r) {
        amax = MaxI(amax, MagnitudeBits(Read<Source>(in + r * job.cols, count)));
      }
      const LaneScales scales = ScalesOfLanes(job, amax);
      PhiloxLanes random = {};
      for (int64_t r = 0; r < height; ++r) {
        const F32x16 y = Read<Source>(in + r * job.cols, count) * scales.encode;
        F32x16 value;
        if (job.stochastic) {
          if (r % 16 == 0) {
            BlockIndices indices;
            for (int i = 0; i < 16; ++i) {
              SetIndex(&indices, i, BlockIndex(job.key, col + i, (first + r) / 16));
            }
            random = Draw(job.key, indices);
          }
          value = StochasticE2m1(
              y, ShiftRight(random.word[r % 16 / 4], 8 * static_cast<int>(r % 4)) & Set1I(255));
        } else {
          value = Element::Nearest(y);
        }
        Write(out + r * job.cols, value * scales.decode, count);
      }
    }
  }
}

// ---- kTile ----

template <class Source, class Out, class Element>
static void QuantizeTiles(const ScaledJob& job, BandRange bands) {
  for (int64_t band = bands.first; band < bands.last; ++band) {
    const int64_t first = band * job.block;
    const int64_t height = Smaller(job.block, job.rows - first);
    for (int64_t col = 0; col < job.cols; col += job.block) {
      const int64_t width = Smaller(job.block, job.cols - col);
      uint32_t amax = 0;
      for (int64_t r = first; r < first + height; ++r) {
        const uint32_t row_max = RowMax<Source>(ViewsAt<Source, Out>(job, r, col).in, width);
        amax = row_max > amax ? row_max : amax;
      }
      const nvfp4::BlockScale scale = ScaleOf(job, amax);
      const F32x16 encode = Set1(scale.encode), decode = Set1(scale.decode);
      for (int64_t r = first; r < first + height; ++r) {
        const Views<Source, Out> views = ViewsAt<Source, Out>(job, r, col);
        ForLanes(0, width, [&](int64_t i, int64_t count) NIBBLE_LAMBDA {
          const F32x16 y = Read<Source>(views.in + i, count) * encode;
          Write(views.out + i, Element::Nearest(y) * decode, count);
        });
      }
    }
  }
}

// ---- which of them ----

template <class Source, class Out, class Element>
static void QuantizeShape(const ScaledJob& job, BandRange bands) {
  switch (job.shape) {
    case BlockShape::kRow:
      return QuantizeRows<Source, Out, Element>(job, bands);
    case BlockShape::kColumn:
      return QuantizeColumns<Source, Out, Element>(job, bands);
    case BlockShape::kTile:
    case BlockShape::kTileTransposed:
      return QuantizeTiles<Source, Out, Element>(job, bands);
  }
}

template <class Source, class Out>
static void QuantizeElement(const ScaledJob& job, BandRange bands) {
  switch (job.element) {
    case ElementType::kE2m1:
      return QuantizeShape<Source, Out, E2m1>(job, bands);
    case ElementType::kE4m3:
      return QuantizeShape<Source, Out, E4m3>(job, bands);
    case ElementType::kE5m2:
      return QuantizeShape<Source, Out, E5m2>(job, bands);
  }
}

template <class Source>
static void QuantizeSource(const ScaledJob& job, BandRange bands) {
  job.out_type == DType::kBF16 ? QuantizeElement<Source, uint16_t>(job, bands)
                               : QuantizeElement<Source, float>(job, bands);
}

void QuantizeScaled(const ScaledJob& job, BandRange bands) {
  job.source_type == DType::kBF16 ? QuantizeSource<BF16Source>(job, bands)
                                  : QuantizeSource<F32Source>(job, bands);
}

}  // namespace

const ScaledKernels kScaledKernels = {QuantizeScaled, AnyHadamard};

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
