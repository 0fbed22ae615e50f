// The quantiser's arithmetic on sixteen lanes: kernels/nvfp4 (scales.h, rounding.h, philox.h) with
// the same roundings, without branches. Included by sources compiled per instruction set.
#ifndef KERNELS_CPU_QUANTIZE_LANES_H_
#define KERNELS_CPU_QUANTIZE_LANES_H_

#include "kernels/cpu/simd.h"
#include "kernels/nvfp4/e4m3.h"
#include "kernels/nvfp4/philox.h"
#include "kernels/nvfp4/scales.h"
#include "kernels/op_args.h"

namespace nibble::kernels::cpu {
namespace NIBBLE_ISA {

struct BlockScales {
  F32x16 scale;   // f32 of the E4M3 code
  F32x16 encode;  // what elements are multiplied by
};

// nvfp4::BlockScaleOf, E4m3ToF32 and BlockEncode. The scale is rounded to a multiple of its E4M3
// step by adding 1.5 * 2^23 steps, as in nvfp4::F32ToE4m3.
NIBBLE_SIMD BlockScales ScalesOf(F32x16 block_amax, float multiplier, float decode) {
  const F32x16 scale = Min(block_amax * Set1(multiplier), Set1(nvfp4::kE4m3Max));
  const I32x16 power = BitsOf(Max(scale, Set1(nvfp4::kE4m3MinNormal))) & Set1I(0x7f800000);
  const F32x16 magic = FloatOf(power + Set1I((20 << 23) + 0x400000));
  BlockScales result;
  result.scale = (scale + magic) - magic;
  result.encode = Min(Set1(1.0f) / (result.scale * Set1(decode)), Set1(nvfp4::kFloatMax));
  return result;
}

// The E4M3 codes of scales that are on its grid.
NIBBLE_SIMD I32x16 ScaleCodes(F32x16 scale) {
  const I32x16 power = BitsOf(Max(scale, Set1(nvfp4::kE4m3MinNormal))) & Set1I(0x7f800000);
  const I32x16 magic = power + Set1I((20 << 23) + 0x400000);
  const I32x16 multiple = BitsOf(scale + FloatOf(magic)) - magic;
  return multiple + ShiftRight(power - Set1I(121 << 23), 20);
}

// The power of two at or below a magnitude, but at least 1, as bits: twice the E2M1 step there.
NIBBLE_SIMD I32x16 PowerBelow(F32x16 magnitude) {
  return BitsOf(Max(magnitude, Set1(1.0f))) & Set1I(0x7f800000);
}

// E2M1 values of y, signs kept.
NIBBLE_SIMD F32x16 NearestE2m1(F32x16 y) {
  const F32x16 a = Min(Abs(y), Set1(6.0f));
  const F32x16 magic = FloatOf(PowerBelow(a) + Set1I((22 << 23) + 0x400000));
  const F32x16 rounded = (a + magic) - magic;
  return FloatOf(BitsOf(rounded) | (BitsOf(y) & Set1I(INT32_MIN)));
}

// `random`: a byte in each lane.
NIBBLE_SIMD F32x16 StochasticE2m1(F32x16 y, I32x16 random) {
  const F32x16 a = Min(Abs(y), Set1(6.0f));
  const I32x16 power = PowerBelow(a);
  const F32x16 step = FloatOf(power - Set1I(1 << 23));
  const F32x16 inverse_step = FloatOf(Set1I(0x7f800000) - power);
  const F32x16 t = a + ToFloat(random) * Set1(0.00390625f) * step;
  const F32x16 rounded = Min(ToFloat(ToInt(t * inverse_step)) * step, Set1(6.0f));
  return FloatOf(BitsOf(rounded) | (BitsOf(y) & Set1I(INT32_MIN)));
}

// The codes of E2M1 values: nvfp4::E2m1OfGridPoint.
NIBBLE_SIMD I32x16 CodesOf(F32x16 value) {
  const F32x16 magnitude = Abs(value);
  const I32x16 power = PowerBelow(magnitude);
  const F32x16 inverse_step = FloatOf(Set1I(0x7f800000) - power);
  const I32x16 code = ToInt(magnitude * inverse_step) + ShiftRight(power - Set1I(127 << 23), 22);
  return code | (ShiftRight(BitsOf(value), 28) & Set1I(8));
}

// ---- Philox on sixteen counters ----
struct PhiloxLanes {
  I32x16 word[4];
};

// Both halves of the 64-bit products of lanes with a constant.
NIBBLE_SIMD void MultiplyWide(I32x16 a, uint32_t constant, I32x16* high, I32x16* low) {
  for (int p = 0; p < kParts; ++p) {
#if defined(__AVX512F__)
    const __m512i m = _mm512_set1_epi64(constant);
    const __m512i x = (__m512i)a.part[p];
    const __m512i even = _mm512_mul_epu32(x, m);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), m);
    low->part[p] = (NativeI)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    high->part[p] = (NativeI)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
#elif defined(__AVX2__)
    const __m256i m = _mm256_set1_epi64x(constant);
    const __m256i x = (__m256i)a.part[p];
    const __m256i even = _mm256_mul_epu32(x, m);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
    low->part[p] = (NativeI)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    high->part[p] = (NativeI)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
    const __m128i m = _mm_set1_epi64x(constant);
    const __m128i x = (__m128i)a.part[p];
    const __m128i even = _mm_mul_epu32(x, m);
    const __m128i odd = _mm_mul_epu32(_mm_srli_epi64(x, 32), m);
    low->part[p] = (NativeI)_mm_blend_epi16(even, _mm_slli_epi64(odd, 32), 0xcc);
    high->part[p] = (NativeI)_mm_blend_epi16(_mm_srli_epi64(even, 32), odd, 0xcc);
#endif
  }
}

// nvfp4::BlockRandom; the block index of each lane in halves.
NIBBLE_SIMD PhiloxLanes RandomLanes(const StochasticKey& key, I32x16 block_low, I32x16 block_high) {
  I32x16 c0 = block_low;
  I32x16 c1 = block_high;
  I32x16 c2 = Set1I(static_cast<int32_t>(key.tensor_id));
  I32x16 c3 = Set1I(static_cast<int32_t>(key.step));
  uint32_t k0 = static_cast<uint32_t>(key.seed);
  uint32_t k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    I32x16 high0, low0, high1, low1;
    MultiplyWide(c0, kPhiloxM0, &high0, &low0);
    MultiplyWide(c2, kPhiloxM1, &high1, &low1);
    c0 = high1 ^ c1 ^ Set1I(static_cast<int32_t>(k0));
    c1 = low1;
    c2 = high0 ^ c3 ^ Set1I(static_cast<int32_t>(k1));
    c3 = low0;
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return PhiloxLanes{{c0, c1, c2, c3}};
}

// Sixteen bytes, each in a lane.
NIBBLE_SIMD I32x16 WidenBytes(const uint8_t* bytes) {
  const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  I32x16 r;
#if defined(__AVX512F__)
  r.part[0] = (NativeI)_mm512_cvtepu8_epi32(all);
#elif defined(__AVX2__)
  r.part[0] = (NativeI)_mm256_cvtepu8_epi32(all);
  r.part[1] = (NativeI)_mm256_cvtepu8_epi32(_mm_srli_si128(all, 8));
#else
  r.part[0] = (NativeI)_mm_cvtepu8_epi32(all);
  r.part[1] = (NativeI)_mm_cvtepu8_epi32(_mm_srli_si128(all, 4));
  r.part[2] = (NativeI)_mm_cvtepu8_epi32(_mm_srli_si128(all, 8));
  r.part[3] = (NativeI)_mm_cvtepu8_epi32(_mm_srli_si128(all, 12));
#endif
  return r;
}

// The low byte of each lane. REQUIRES: lanes are 0..255.
NIBBLE_SIMD void StoreBytes(uint8_t* to, I32x16 lanes) {
  int32_t values[16];
  StoreI(values, lanes);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<uint8_t>(values[i]);
}

// ---- matrices in memory ----

struct F32Source {
  using Element = float;
  NIBBLE_SIMD F32x16 Read(const float* from) { return Load(from); }
  // `count` lanes, 1 to 16; the others are zero.
  NIBBLE_SIMD F32x16 ReadPart(const float* from, int64_t count) { return LoadPartial(from, count); }
};
struct BF16Source {
  using Element = uint16_t;
  NIBBLE_SIMD F32x16 Read(const uint16_t* from) { return LoadBf16(from); }
  NIBBLE_SIMD F32x16 ReadPart(const uint16_t* from, int64_t count) {
    uint16_t lanes[16] = {};
    __builtin_memcpy(lanes, from, count * 2);
    return LoadBf16(lanes);
  }
};

NIBBLE_SIMD void TransposeLanes(F32x16* g) {
  float from[16][16], to[16][16];
  for (int i = 0; i < 16; ++i) Store(from[i], g[i]);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) to[j][i] = from[i][j];
  }
  for (int i = 0; i < 16; ++i) g[i] = Load(to[i]);
}

// RoundToBf16 of anything but a NaN, which may become any value: the maximum, taken before the
// rounding, says that there is one.
NIBBLE_SIMD F32x16 RoundFinite(F32x16 a) {
  const I32x16 bits = BitsOf(a);
  const I32x16 even = ShiftRight(bits, 16) & Set1I(1);
  return FloatOf((bits + Set1I(0x7fff) + even) & Set1I(static_cast<int32_t>(0xffff0000u)));
}

// ---- magnitudes as integers, so that a NaN counts above infinity ----

NIBBLE_SIMD I32x16 MagnitudeBits(F32x16 a) { return BitsOf(a) & Set1I(0x7fffffff); }

NIBBLE_SIMD I32x16 MaxI(I32x16 a, I32x16 b) {
  for (int p = 0; p < kParts; ++p) a.part[p] = a.part[p] > b.part[p] ? a.part[p] : b.part[p];
  return a;
}

NIBBLE_SIMD uint32_t LargestLane(I32x16 a) {
  int32_t lanes[16];
  StoreI(lanes, a);
  __m128i largest = _mm_loadu_si128((const __m128i*)lanes);
  for (int i = 4; i < 16; i += 4) {
    largest = _mm_max_epi32(largest, _mm_loadu_si128((const __m128i*)(lanes + i)));
  }
  largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0x4e));
  largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(largest));
}

// ---- stochastic rounding: the blocks' indices and bytes ----

// Sixteen block indices, split for Philox.
struct BlockIndices {
  int32_t low[16];
  int32_t high[16];
};
NIBBLE_SIMD void SetIndex(BlockIndices* indices, int lane, uint64_t index) {
  indices->low[lane] = static_cast<int32_t>(index);
  indices->high[lane] = static_cast<int32_t>(index >> 32);
}
NIBBLE_SIMD PhiloxLanes Draw(const StochasticKey& key, const BlockIndices& indices) {
  return RandomLanes(key, LoadI(indices.low), LoadI(indices.high));
}

// The 16 bytes of each block in order, from words by lane.
NIBBLE_SIMD void BytesByBlock(const PhiloxLanes& random, uint8_t* bytes) {
  int32_t words[4][16];
  for (int w = 0; w < 4; ++w) StoreI(words[w], random.word[w]);
  for (int lane = 0; lane < 16; lane += 4) {
    __m128 row[4];
    for (int w = 0; w < 4; ++w) row[w] = _mm_loadu_ps((const float*)&words[w][lane]);
    _MM_TRANSPOSE4_PS(row[0], row[1], row[2], row[3]);
    for (int i = 0; i < 4; ++i) _mm_storeu_ps((float*)(bytes + 16 * (lane + i)), row[i]);
  }
}

// Index of the operand's block (row, col / 16).
NIBBLE_SIMD uint64_t BlockIndex(const StochasticKey& key, int64_t row, int64_t block_col) {
  return static_cast<uint64_t>(key.first_row + row) * static_cast<uint64_t>(key.total_cols / 16) +
         static_cast<uint64_t>(key.first_col / 16 + block_col);
}

}  // namespace NIBBLE_ISA
}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_QUANTIZE_LANES_H_
