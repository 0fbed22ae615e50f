#include "kernels/cpu/quantize_kernels.h"

#include "kernels/cpu/quantize_lanes.h"
#include "kernels/cpu/simd.h"
#include "kernels/nvfp4/hadamard.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

constexpr int kBand = 16;

// What becomes of sixteen rounded elements: E2M1 values in FP32 and their block scales.
struct F32Sink {
  using Element = float;
  NIBBLE_SIMD void Write(float* to, F32x16 value, F32x16 scale) { Store(to, value * scale); }
};
struct BF16Sink {
  using Element = uint16_t;
  NIBBLE_SIMD void Write(uint16_t* to, F32x16 value, F32x16 scale) {
    StoreBf16Exact(to, value * scale);
  }
};
struct CodesSink {
  using Element = uint8_t;
  NIBBLE_SIMD void Write(uint8_t* to, F32x16 value, F32x16) { StoreBytes(to, CodesOf(value)); }
};

// ---- four over six: nearest only ----

// What rounding leaves of sixteen elements, |error| or its square a lane, in units of s_dec.
NIBBLE_SIMD F32x16 ErrorOf(const QuantizeJob& job, F32x16 x, float scale, float encode) {
  const F32x16 rounded = NearestE2m1(x * Set1(encode));
  const F32x16 error = rounded * Set1(scale) - x * Set1(job.tensor.encode);
  return job.target == BlockTarget::kFourOrSixByAbsoluteError ? Abs(error) : error * error;
}

// Of two scales for each of sixteen blocks, the second where its error is smaller.
// measure(scale, encode, error): the errors with the scales of an array of sixteen.
template <class Measure>
NIBBLE_SIMD BlockScales Better(const BlockScales& six, const BlockScales& four,
                               const Measure& measure) {
  float scale[16], encode[16];
  float error_six[16] = {}, error_four[16] = {};
  Store(scale, six.scale);
  Store(encode, six.encode);
  measure(scale, encode, error_six);
  Store(scale, four.scale);
  Store(encode, four.encode);
  measure(scale, encode, error_four);
  const I32x16 choose = Less(Load(error_four), Load(error_six));
  return {Select(choose, four.scale, six.scale), Select(choose, four.encode, six.encode)};
}

// ---- kRow ----

// Up to 16 blocks that follow each other in memory, wherever rows end.
template <class Source, class Sink, bool kStochastic>
static void QuantizeBlocks(const QuantizeJob& job, int64_t first_block, int count) {
  const int64_t blocks_a_row = job.cols / 16;
  const auto* in = static_cast<const typename Source::Element*>(job.source) + first_block * 16;
  auto* out = static_cast<typename Sink::Element*>(job.out) + first_block * 16;
  float amax[16] = {};
  for (int i = 0; i < count; ++i) amax[i] = ReduceMax(Abs(Source::Read(in + 16 * i)));
  BlockScales scales = ScalesOf(Load(amax), job.tensor.multiplier, job.tensor.decode);
  if (job.target != BlockTarget::kSix) {
    const BlockScales four = ScalesOf(Load(amax), job.tensor.multiplier_to_four, job.tensor.decode);
    scales = Better(scales, four, [&](const float* scale, const float* encode, float* error) {
      for (int i = 0; i < count; ++i) {
        error[i] = ReduceAdd(ErrorOf(job, Source::Read(in + 16 * i), scale[i], encode[i]));
      }
    });
  }
  float scale[16], encode[16];
  Store(scale, scales.scale);
  Store(encode, scales.encode);
  uint8_t bytes[256];
  if (kStochastic) {
    BlockIndices indices;
    int64_t row = first_block / blocks_a_row;
    int64_t col = first_block % blocks_a_row;
    for (int i = 0; i < 16; ++i) {
      SetIndex(&indices, i, BlockIndex(job.key, row, col));
      if (++col == blocks_a_row) {
        col = 0;
        ++row;
      }
    }
    BytesByBlock(Draw(job.key, indices), bytes);
  }
  for (int i = 0; i < count; ++i) {
    const F32x16 y = Source::Read(in + 16 * i) * Set1(encode[i]);
    const F32x16 value =
        kStochastic ? StochasticE2m1(y, WidenBytes(bytes + 16 * i)) : NearestE2m1(y);
    Sink::Write(out + 16 * i, value, Set1(scale[i]));
  }
  if (job.scales != nullptr) {
    uint8_t codes[16];
    StoreBytes(codes, ScaleCodes(scales.scale));
    for (int i = 0; i < count; ++i) job.scales[first_block + i] = codes[i];
  }
}

template <class Source, class Sink, bool kStochastic>
static void QuantizeRows(const QuantizeJob& job, BandRange bands) {
  const int64_t last_row = bands.last * kBand < job.rows ? bands.last * kBand : job.rows;
  const int64_t last = last_row * (job.cols / 16);
  for (int64_t block = bands.first * kBand * (job.cols / 16); block < last; block += 16) {
    const int count = static_cast<int>(last - block < 16 ? last - block : 16);
    QuantizeBlocks<Source, Sink, kStochastic>(job, block, count);
  }
}

// ---- Hadamard ----

template <int kStride, int kPair>
NIBBLE_SIMD void Butterfly(NativeF* g) {
  constexpr int kFirst = kPair / kStride * 2 * kStride + kPair % kStride;
  const NativeF a = g[kFirst];
  const NativeF b = g[kFirst + kStride];
  g[kFirst] = a + b;
  g[kFirst + kStride] = a - b;
}

// Written out, because GCC 12 does not unroll the loops of nvfp4::Hadamard and so keeps the
// vectors in memory.
template <int kStride>
NIBBLE_SIMD void Butterflies(NativeF* g) {
  Butterfly<kStride, 0>(g);
  Butterfly<kStride, 1>(g);
  Butterfly<kStride, 2>(g);
  Butterfly<kStride, 3>(g);
  Butterfly<kStride, 4>(g);
  Butterfly<kStride, 5>(g);
  Butterfly<kStride, 6>(g);
  Butterfly<kStride, 7>(g);
}

// nvfp4::Hadamard before its rounding on a native vector of groups: element i of each in g[i]. A
// native vector at a time, because sixteen of them are all the registers of AVX2.
NIBBLE_SIMD void HadamardPart(NativeF* g) {
  static_assert(nvfp4::kHadamardSize == 16);
  for (int i = 0; i < 16; ++i) {
    if ((nvfp4::kHadamardSigns >> i) & 1u) g[i] = -g[i];
  }
  Butterflies<1>(g);
  Butterflies<2>(g);
  Butterflies<4>(g);
  Butterflies<8>(g);
  for (int i = 0; i < 16; ++i) g[i] *= nvfp4::kHadamardScale;
}

// Sixteen groups, element i of each in g[i]; not rounded yet.
NIBBLE_SIMD void HadamardLanes(F32x16* g) {
  for (int p = 0; p < kParts; ++p) {
    NativeF part[nvfp4::kHadamardSize];
    for (int i = 0; i < nvfp4::kHadamardSize; ++i) part[i] = g[i].part[p];
    HadamardPart(part);
    for (int i = 0; i < nvfp4::kHadamardSize; ++i) g[i].part[p] = part[i];
  }
}

// ---- kColumn: lanes are columns, so that amax, scales and random words never cross lanes ----

template <class Source, class Sink, bool kStochastic>
static void QuantizeColumns(const QuantizeJob& job, BandRange bands) {
  for (int64_t band = bands.first; band < bands.last; ++band) {
    const int64_t row = band * kBand;
    for (int64_t col = 0; col < job.cols; col += 16) {
      const auto* in =
          static_cast<const typename Source::Element*>(job.source) + row * job.cols + col;
      auto* out = static_cast<typename Sink::Element*>(job.out) + row * job.cols + col;
      F32x16 x[kBand];
      for (int r = 0; r < kBand; ++r) x[r] = Source::Read(in + r * job.cols);
      if (job.hadamard) {
        HadamardLanes(x);
        for (int r = 0; r < kBand; ++r) x[r] = RoundFinite(x[r]);
      }
      F32x16 amax = Abs(x[0]);
      for (int r = 1; r < kBand; ++r) amax = Max(amax, Abs(x[r]));
      if (job.shape == BlockShape::kTileTransposed) amax = Set1(ReduceMax(amax));
      const BlockScales scales = ScalesOf(amax, job.tensor.multiplier, job.tensor.decode);
      PhiloxLanes random;
      if (kStochastic) {
        BlockIndices indices;
        for (int i = 0; i < 16; ++i) SetIndex(&indices, i, BlockIndex(job.key, col + i, band));
        random = Draw(job.key, indices);
      }
      for (int r = 0; r < kBand; ++r) {
        const F32x16 y = x[r] * scales.encode;
        F32x16 value;
        if (kStochastic) {
          value = StochasticE2m1(y, ShiftRight(random.word[r / 4], 8 * (r % 4)) & Set1I(255));
        } else {
          value = NearestE2m1(y);
        }
        Sink::Write(out + r * job.cols, value, scales.scale);
      }
      if (job.scales != nullptr) {
        uint8_t codes[16];
        StoreBytes(codes, ScaleCodes(scales.scale));
        for (int i = 0; i < 16; ++i) job.scales[(col + i) * (job.rows / 16) + band] = codes[i];
      }
    }
  }
}

// ---- kTile ----

// 16 rows of a tile with one scale.
template <class Source, class Sink, bool kStochastic>
static void QuantizeTile(const QuantizeJob& job, int64_t row, int64_t col, float encode,
                         float scale) {
  const auto* in = static_cast<const typename Source::Element*>(job.source) + row * job.cols + col;
  auto* out = static_cast<typename Sink::Element*>(job.out) + row * job.cols + col;
  uint8_t bytes[256];
  if (kStochastic) {
    BlockIndices indices;
    for (int i = 0; i < 16; ++i) SetIndex(&indices, i, BlockIndex(job.key, row + i, col / 16));
    BytesByBlock(Draw(job.key, indices), bytes);
  }
  for (int r = 0; r < kBand; ++r) {
    const F32x16 y = Source::Read(in + r * job.cols) * Set1(encode);
    const F32x16 value =
        kStochastic ? StochasticE2m1(y, WidenBytes(bytes + 16 * r)) : NearestE2m1(y);
    Sink::Write(out + r * job.cols, value, Set1(scale));
  }
}

template <class Source>
static float TileError(const QuantizeJob& job, int64_t row, int64_t col, float scale,
                       float encode) {
  const auto* in = static_cast<const typename Source::Element*>(job.source) + row * job.cols + col;
  F32x16 lanes = Zero();
  for (int r = 0; r < kBand; ++r) {
    lanes = lanes + ErrorOf(job, Source::Read(in + r * job.cols), scale, encode);
  }
  return ReduceAdd(lanes);
}

template <class Source, class Sink, bool kStochastic>
static void QuantizeTiles(const QuantizeJob& job, BandRange bands) {
  const int64_t tiles_a_row = job.cols / 16;
  for (int64_t band = bands.first; band < bands.last; ++band) {
    for (int64_t first = 0; first < tiles_a_row; first += 16) {
      const int count = static_cast<int>(tiles_a_row - first < 16 ? tiles_a_row - first : 16);
      float amax[16] = {};
      for (int i = 0; i < count; ++i) {
        const auto* in = static_cast<const typename Source::Element*>(job.source) +
                         band * kBand * job.cols + (first + i) * 16;
        F32x16 lanes = Zero();
        for (int r = 0; r < kBand; ++r) lanes = Max(lanes, Abs(Source::Read(in + r * job.cols)));
        amax[i] = ReduceMax(lanes);
      }
      BlockScales scales = ScalesOf(Load(amax), job.tensor.multiplier, job.tensor.decode);
      if (job.target != BlockTarget::kSix) {
        const BlockScales four =
            ScalesOf(Load(amax), job.tensor.multiplier_to_four, job.tensor.decode);
        scales = Better(scales, four, [&](const float* scale, const float* encode, float* error) {
          for (int i = 0; i < count; ++i) {
            error[i] = TileError<Source>(job, band * kBand, (first + i) * 16, scale[i], encode[i]);
          }
        });
      }
      float scale[16], encode[16];
      Store(scale, scales.scale);
      Store(encode, scales.encode);
      for (int i = 0; i < count; ++i) {
        QuantizeTile<Source, Sink, kStochastic>(job, band * kBand, (first + i) * 16, encode[i],
                                                scale[i]);
      }
      if (job.scales != nullptr) {
        uint8_t codes[16];
        StoreBytes(codes, ScaleCodes(scales.scale));
        for (int i = 0; i < count; ++i) job.scales[band * tiles_a_row + first + i] = codes[i];
      }
    }
  }
}

// ---- which of them ----

template <class Source, class Sink, bool kStochastic>
static void QuantizeShape(const QuantizeJob& job, BandRange bands) {
  switch (job.shape) {
    case BlockShape::kRow:
      return QuantizeRows<Source, Sink, kStochastic>(job, bands);
    case BlockShape::kColumn:
    case BlockShape::kTileTransposed:
      return QuantizeColumns<Source, Sink, kStochastic>(job, bands);
    case BlockShape::kTile:
      return QuantizeTiles<Source, Sink, kStochastic>(job, bands);
  }
}

template <class Source, class Sink>
static void QuantizeRounding(const QuantizeJob& job, BandRange bands) {
  job.stochastic ? QuantizeShape<Source, Sink, true>(job, bands)
                 : QuantizeShape<Source, Sink, false>(job, bands);
}

template <class Source>
static void QuantizeSource(const QuantizeJob& job, BandRange bands) {
  switch (job.output) {
    case QuantizeOutput::kF32:
      return QuantizeRounding<Source, F32Sink>(job, bands);
    case QuantizeOutput::kBF16:
      return QuantizeRounding<Source, BF16Sink>(job, bands);
    case QuantizeOutput::kCodes:
      return QuantizeRounding<Source, CodesSink>(job, bands);
  }
}

void Quantize(const QuantizeJob& job, BandRange bands) {
  job.source_type == DType::kBF16 ? QuantizeSource<BF16Source>(job, bands)
                                  : QuantizeSource<F32Source>(job, bands);
}

// ---- maximum ----

template <class Source>
static uint32_t MaxOf(const void* source, int64_t size) {
  const auto* in = static_cast<const typename Source::Element*>(source);
  I32x16 largest[2] = {};  // two chains hide the latency
  int64_t i = 0;
  for (; i + 32 <= size; i += 32) {
    largest[0] = MaxI(largest[0], MagnitudeBits(Source::Read(in + i)));
    largest[1] = MaxI(largest[1], MagnitudeBits(Source::Read(in + i + 16)));
  }
  for (; i + 16 <= size; i += 16)
    largest[0] = MaxI(largest[0], MagnitudeBits(Source::Read(in + i)));
  if (i < size) largest[0] = MaxI(largest[0], MagnitudeBits(Source::ReadPart(in + i, size - i)));
  return LargestLane(MaxI(largest[0], largest[1]));
}

uint32_t MaxMagnitudeBits(const void* source, DType type, int64_t size) {
  return type == DType::kBF16 ? MaxOf<BF16Source>(source, size) : MaxOf<F32Source>(source, size);
}

// ---- Hadamard transform and its maximum ----

template <class Source>
static uint32_t HadamardBands(const HadamardJob& job, BandRange bands) {
  const auto* in = static_cast<const typename Source::Element*>(job.source);
  I32x16 largest = {};
  for (int64_t row = bands.first * kBand; row < bands.last * kBand; row += kBand) {
    for (int64_t col = 0; col < job.cols; col += 16) {
      F32x16 g[16];
      for (int i = 0; i < 16; ++i) g[i] = Source::Read(in + (row + i) * job.cols + col);
      if (!job.along_columns) TransposeLanes(g);
      HadamardLanes(g);
      for (int i = 0; i < 16; ++i) largest = MaxI(largest, MagnitudeBits(g[i]));
      if (job.out == nullptr) continue;
      if (!job.along_columns) TransposeLanes(g);
      for (int i = 0; i < 16; ++i) {
        const int64_t at = (row + i) * job.cols + col;
        if (job.out_type == DType::kBF16) {
          StoreBf16Exact(static_cast<uint16_t*>(job.out) + at, RoundFinite(g[i]));
        } else {
          Store(static_cast<float*>(job.out) + at, RoundFinite(g[i]));
        }
      }
    }
  }
  // Rounding is monotonic: the largest rounded is the rounded largest.
  return nvfp4::BitsOf(nvfp4::RoundToBf16(nvfp4::FloatOf(LargestLane(largest))));
}

uint32_t Hadamard(const HadamardJob& job, BandRange bands) {
  return job.source_type == DType::kBF16 ? HadamardBands<BF16Source>(job, bands)
                                         : HadamardBands<F32Source>(job, bands);
}

}  // namespace

const QuantizeKernels kQuantizeKernels = {MaxMagnitudeBits, Hadamard, Quantize};

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
