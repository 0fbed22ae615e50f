// The Hadamard transform of any size and signs as a pass of its own. (The default size and signs,
// along columns, are part of the quantiser: quantize_kernels.cc.)
#include "kernels/cpu/quantize_lanes.h"
#include "kernels/cpu/scaled_kernels.h"

namespace nibble::kernels::cpu::NIBBLE_ISA {
namespace {

// Sixteen groups a lane each, element i of them in g[i]; `count` elements in groups of `size`.
static void TransformLanes(const AnyHadamardJob& job, F32x16* g, int count) {
  for (int i = 0; i < count; ++i) {
    if (nvfp4::IsNegative(job.signs, i % job.size) != 0) {
      g[i] = FloatOf(BitsOf(g[i]) ^ Set1I(INT32_MIN));
    }
  }
  for (int stride = 1; stride < job.size; stride *= 2) {
    for (int i = 0; i < count; ++i) {
      if ((i & stride) != 0) continue;
      const F32x16 a = g[i];
      const F32x16 b = g[i + stride];
      g[i] = a + b;
      g[i + stride] = a - b;
    }
  }
  const F32x16 scale = Set1(nvfp4::HadamardScale(job.size));
  for (int i = 0; i < count; ++i) g[i] = RoundToBf16(g[i] * scale);
}

template <class Source>
static void LoadGroups(const HadamardJob& m, int64_t row, int64_t col, int count, F32x16* g) {
  const auto* in = static_cast<const typename Source::Element*>(m.source) + row * m.cols + col;
  if (m.along_columns) {
    const int64_t lanes = m.cols - col < 16 ? m.cols - col : 16;
    for (int i = 0; i < count; ++i) g[i] = Source::ReadPart(in + i * m.cols, lanes);
    return;
  }
  for (int tile = 0; tile < count; tile += 16) {
    for (int i = 0; i < 16; ++i) g[tile + i] = Source::Read(in + i * m.cols + tile);
    TransposeLanes(g + tile);
  }
}

static void StoreGroup(const HadamardJob& m, int64_t at, F32x16 value, int64_t lanes) {
  if (m.out_type == DType::kF32) {
    StorePartial(static_cast<float*>(m.out) + at, value, lanes);
    return;
  }
  uint16_t narrow[16];
  StoreBf16Exact(narrow, value);
  __builtin_memcpy(static_cast<uint16_t*>(m.out) + at, narrow, lanes * 2);
}

static void StoreGroups(const HadamardJob& m, int64_t row, int64_t col, int count, F32x16* g) {
  if (m.along_columns) {
    const int64_t lanes = m.cols - col < 16 ? m.cols - col : 16;
    for (int i = 0; i < count; ++i) StoreGroup(m, (row + i) * m.cols + col, g[i], lanes);
    return;
  }
  for (int tile = 0; tile < count; tile += 16) {
    TransposeLanes(g + tile);
    for (int i = 0; i < 16; ++i) StoreGroup(m, (row + i) * m.cols + col + tile, g[tile + i], 16);
  }
}

template <class Source>
static uint32_t TransformBands(const AnyHadamardJob& job, BandRange bands) {
  const HadamardJob& m = job.matrix;
  const int count = job.size > 16 ? job.size : 16;
  const int64_t band_rows = BandRows(job);
  const int64_t step = m.along_columns ? 16 : count;
  I32x16 largest = {};
  for (int64_t row = bands.first * band_rows; row < bands.last * band_rows; row += band_rows) {
    for (int64_t col = 0; col < m.cols; col += step) {
      F32x16 g[nvfp4::kMaxHadamardSize];
      LoadGroups<Source>(m, row, col, count, g);
      TransformLanes(job, g, count);
      for (int i = 0; i < count; ++i) largest = MaxI(largest, MagnitudeBits(g[i]));
      StoreGroups(m, row, col, count, g);
    }
  }
  return LargestLane(largest);
}

}  // namespace

uint32_t AnyHadamard(const AnyHadamardJob& job, BandRange bands) {
  return job.matrix.source_type == DType::kBF16 ? TransformBands<BF16Source>(job, bands)
                                                : TransformBands<F32Source>(job, bands);
}

}  // namespace nibble::kernels::cpu::NIBBLE_ISA
