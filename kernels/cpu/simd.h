// Sixteen FP32 lanes on any instruction set, with one result on all of them: no operation is
// contracted and reductions have a fixed order.
//
// A file that includes this header is compiled once for each instruction set (nibble_isa_sources of
// CMakeLists.txt), everything in it in namespace NIBBLE_ISA (baseline, avx2 or avx512). Such a file
// must not emit a symbol that other objects share: a weak copy of a standard-library or inline
// function compiled for AVX-512 may be the one that the linker keeps, and then faults on an older
// machine. So: no std:: containers, no absl, no in-class or `inline` functions of other headers;
// `static` functions, lambdas and kernels/nvfp4 are safe. The test isa_symbols_test looks.
#ifndef KERNELS_CPU_SIMD_H_
#define KERNELS_CPU_SIMD_H_

#include <immintrin.h>

#include <cstdint>

#ifndef NIBBLE_ISA
#define NIBBLE_ISA baseline
#endif
#define NIBBLE_SIMD static inline __attribute__((always_inline, unused))

namespace nibble::kernels::cpu {
namespace NIBBLE_ISA {

// Native vectors and not one of 64 bytes: GCC 12 keeps wider ones than the machine's in memory.
#if defined(__AVX512F__)
constexpr int kNativeLanes = 16;
#elif defined(__AVX2__)
constexpr int kNativeLanes = 8;
#else
constexpr int kNativeLanes = 4;
#endif
constexpr int kParts = 16 / kNativeLanes;
typedef float NativeF __attribute__((vector_size(kNativeLanes * 4)));
typedef int32_t NativeI __attribute__((vector_size(kNativeLanes * 4)));
typedef uint32_t NativeU __attribute__((vector_size(kNativeLanes * 4)));

// The same at any address.
typedef float LooseF __attribute__((vector_size(kNativeLanes * 4), aligned(4), may_alias));
typedef int32_t LooseI __attribute__((vector_size(kNativeLanes * 4), aligned(4), may_alias));

// Lanes in memory order: part[0] holds the first.
struct F32x16 {
  NativeF part[kParts];
};
// Also the type of masks: a lane is all ones or zero.
struct I32x16 {
  NativeI part[kParts];
};

// ---- construction, memory (no alignment needed) ----
NIBBLE_SIMD F32x16 Set1(float value) {
  F32x16 r;
  for (int p = 0; p < kParts; ++p) {
#if defined(__AVX512F__)
    r.part[p] = (NativeF)_mm512_set1_ps(value);
#elif defined(__AVX2__)
    r.part[p] = (NativeF)_mm256_set1_ps(value);
#else
    r.part[p] = (NativeF)_mm_set1_ps(value);
#endif
  }
  return r;
}
NIBBLE_SIMD I32x16 Set1I(int32_t value) {
  I32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = NativeI{} + value;
  return r;
}
NIBBLE_SIMD F32x16 Zero() { return F32x16{}; }
NIBBLE_SIMD F32x16 Load(const float* from) {
  F32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = *(const LooseF*)(from + p * kNativeLanes);
  return r;
}
NIBBLE_SIMD void Store(float* to, F32x16 a) {
  for (int p = 0; p < kParts; ++p) *(LooseF*)(to + p * kNativeLanes) = a.part[p];
}
NIBBLE_SIMD I32x16 LoadI(const int32_t* from) {
  I32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = *(const LooseI*)(from + p * kNativeLanes);
  return r;
}
NIBBLE_SIMD void StoreI(int32_t* to, I32x16 a) {
  for (int p = 0; p < kParts; ++p) *(LooseI*)(to + p * kNativeLanes) = a.part[p];
}
// The first `count` (0..16) lanes; the others are zero, or are left in memory.
NIBBLE_SIMD F32x16 LoadPartial(const float* from, int64_t count) {
  float lanes[16] = {};
  __builtin_memcpy(lanes, from, count * 4);
  return Load(lanes);
}
NIBBLE_SIMD void StorePartial(float* to, F32x16 a, int64_t count) {
  float lanes[16];
  Store(lanes, a);
  __builtin_memcpy(to, lanes, count * 4);
}

// ---- arithmetic ----
#define NIBBLE_BINARY(type, op)                                          \
  NIBBLE_SIMD type operator op(type a, type b) {                         \
    for (int p = 0; p < kParts; ++p) a.part[p] = a.part[p] op b.part[p]; \
    return a;                                                            \
  }
NIBBLE_BINARY(F32x16, +)
NIBBLE_BINARY(F32x16, -)
NIBBLE_BINARY(F32x16, *)
NIBBLE_BINARY(F32x16, /)
NIBBLE_BINARY(I32x16, +)
NIBBLE_BINARY(I32x16, -)
NIBBLE_BINARY(I32x16, &)
NIBBLE_BINARY(I32x16, |)
NIBBLE_BINARY(I32x16, ^)
#undef NIBBLE_BINARY
NIBBLE_SIMD I32x16 ShiftLeft(I32x16 a, int bits) {
  for (int p = 0; p < kParts; ++p) a.part[p] = (NativeI)((NativeU)a.part[p] << bits);
  return a;
}
// Logical: zeros come in.
NIBBLE_SIMD I32x16 ShiftRight(I32x16 a, int bits) {
  for (int p = 0; p < kParts; ++p) a.part[p] = (NativeI)((NativeU)a.part[p] >> bits);
  return a;
}

// ---- bits ----
NIBBLE_SIMD I32x16 BitsOf(F32x16 a) {
  I32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = (NativeI)a.part[p];
  return r;
}
NIBBLE_SIMD F32x16 FloatOf(I32x16 a) {
  F32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = (NativeF)a.part[p];
  return r;
}
NIBBLE_SIMD F32x16 Abs(F32x16 a) { return FloatOf(BitsOf(a) & Set1I(0x7fffffff)); }

// ---- comparison and choice ----
NIBBLE_SIMD I32x16 Less(F32x16 a, F32x16 b) {
  I32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = (NativeI)(a.part[p] < b.part[p]);
  return r;
}
NIBBLE_SIMD I32x16 LessEqual(F32x16 a, F32x16 b) {
  I32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = (NativeI)(a.part[p] <= b.part[p]);
  return r;
}
NIBBLE_SIMD F32x16 Select(I32x16 mask, F32x16 if_set, F32x16 if_clear) {
  for (int p = 0; p < kParts; ++p) {
    if_set.part[p] = mask.part[p] ? if_set.part[p] : if_clear.part[p];
  }
  return if_set;
}
// x86's order: b where either is NaN. Intrinsics, since GCC 12 makes a comparison and a blend of
// the conditional.
#if defined(__AVX512F__)
#define NIBBLE_NATIVE(name) (NativeF) _mm512_##name
typedef __m512 NativeM;
#elif defined(__AVX2__)
#define NIBBLE_NATIVE(name) (NativeF) _mm256_##name
typedef __m256 NativeM;
#else
#define NIBBLE_NATIVE(name) (NativeF) _mm_##name
typedef __m128 NativeM;
#endif
NIBBLE_SIMD F32x16 Min(F32x16 a, F32x16 b) {
  for (int p = 0; p < kParts; ++p) {
    a.part[p] = NIBBLE_NATIVE(min_ps)((NativeM)a.part[p], (NativeM)b.part[p]);
  }
  return a;
}
NIBBLE_SIMD F32x16 Max(F32x16 a, F32x16 b) {
  for (int p = 0; p < kParts; ++p) {
    a.part[p] = NIBBLE_NATIVE(max_ps)((NativeM)a.part[p], (NativeM)b.part[p]);
  }
  return a;
}

// ---- conversion ----
NIBBLE_SIMD F32x16 ToFloat(I32x16 a) {
  F32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = __builtin_convertvector(a.part[p], NativeF);
  return r;
}
// Towards zero; the values must fit.
NIBBLE_SIMD I32x16 ToInt(F32x16 a) {
  I32x16 r;
  for (int p = 0; p < kParts; ++p) r.part[p] = __builtin_convertvector(a.part[p], NativeI);
  return r;
}

NIBBLE_SIMD F32x16 Sqrt(F32x16 a) {
  for (int p = 0; p < kParts; ++p) a.part[p] = NIBBLE_NATIVE(sqrt_ps)((NativeM)a.part[p]);
  return a;
}
#undef NIBBLE_NATIVE

// ---- BF16 ----
NIBBLE_SIMD F32x16 LoadBf16(const uint16_t* from) {
  I32x16 r;
  for (int p = 0; p < kParts; ++p) {
#if defined(__AVX512F__)
    r.part[p] = (NativeI)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__AVX2__)
    r.part[p] = (NativeI)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(from + 8 * p)));
#else
    r.part[p] = (NativeI)_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i*)(from + 4 * p)));
#endif
  }
  return FloatOf(ShiftLeft(r, 16));
}

// The rounded BF16 in the upper half of each lane, which is also its FP32; nearest, ties to even.
NIBBLE_SIMD F32x16 RoundToBf16(F32x16 a) {
  const I32x16 bits = BitsOf(a);
  const I32x16 rounded = (bits + Set1I(0x7fff) + (ShiftRight(bits, 16) & Set1I(1)));
  I32x16 r;
  for (int p = 0; p < kParts; ++p) {
    const NativeI is_nan = (NativeI)(a.part[p] != a.part[p]);
    r.part[p] = (is_nan & (bits.part[p] | 0x400000)) | (~is_nan & rounded.part[p]);
    r.part[p] &= (int32_t)0xffff0000;
  }
  return FloatOf(r);
}

// Of values that are BF16 already: cuts the lower half off.
NIBBLE_SIMD void StoreBf16Exact(uint16_t* to, F32x16 a) {
  const I32x16 r = ShiftRight(BitsOf(a), 16);
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16((__m512i)r.part[0]));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)r.part[0], (__m256i)r.part[1]);
  _mm256_storeu_si256((__m256i*)to, _mm256_permute4x64_epi64(packed, 0xd8));
#else
  _mm_storeu_si128((__m128i*)to, _mm_packus_epi32((__m128i)r.part[0], (__m128i)r.part[1]));
  _mm_storeu_si128((__m128i*)(to + 8), _mm_packus_epi32((__m128i)r.part[2], (__m128i)r.part[3]));
#endif
}

NIBBLE_SIMD void StoreBf16(uint16_t* to, F32x16 a) { StoreBf16Exact(to, RoundToBf16(a)); }

// ---- reductions: lanes i and i+8, then i+4, i+2, i+1 ----
#if defined(__AVX512F__)
#define NIBBLE_FOLD_TO_4(op)                                                             \
  const __m512 whole = (__m512)a.part[0];                                                \
  const __m256 eight =                                                                   \
      _mm256_##op##_ps(_mm512_castps512_ps256(whole), _mm512_extractf32x8_ps(whole, 1)); \
  const __m128 four = _mm_##op##_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#elif defined(__AVX2__)
#define NIBBLE_FOLD_TO_4(op)                                                   \
  const __m256 eight = _mm256_##op##_ps((__m256)a.part[0], (__m256)a.part[1]); \
  const __m128 four = _mm_##op##_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#else
#define NIBBLE_FOLD_TO_4(op)                                                             \
  const __m128 four = _mm_##op##_ps(_mm_##op##_ps((__m128)a.part[0], (__m128)a.part[2]), \
                                    _mm_##op##_ps((__m128)a.part[1], (__m128)a.part[3]));
#endif
#define NIBBLE_REDUCE(name, op)                                            \
  NIBBLE_SIMD float name(F32x16 a) {                                       \
    NIBBLE_FOLD_TO_4(op)                                                   \
    const __m128 two = _mm_##op##_ps(four, _mm_movehl_ps(four, four));     \
    return _mm_cvtss_f32(_mm_##op##_ss(two, _mm_shuffle_ps(two, two, 1))); \
  }
NIBBLE_REDUCE(ReduceAdd, add)
NIBBLE_REDUCE(ReduceMax, max)
#undef NIBBLE_REDUCE
#undef NIBBLE_FOLD_TO_4

// e^x within 2 ulp; 0 below -87.33654, infinity above 88.7228, NaN for NaN. Cody and Waite's
// reduction and Cephes' polynomial (expf of netlib.org/cephes), in pairs for a shorter chain.
NIBBLE_SIMD F32x16 Exp(F32x16 x) {
  const F32x16 clamped = Min(Max(x, Set1(-87.5f)), Set1(88.75f));
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
  const F32x16 magic = Set1(12582912.0f);
  const F32x16 shifted = clamped * Set1(1.44269504088896341f) + magic;
  const F32x16 n = shifted - magic;
  const F32x16 r = clamped - n * Set1(0.693359375f) - n * Set1(-2.12194440e-4f);
  const F32x16 r2 = r * r;
  const F32x16 high = Set1(1.9875691500e-4f) * r + Set1(1.3981999507e-3f);
  const F32x16 middle = Set1(8.3334519073e-3f) * r + Set1(4.1665795894e-2f);
  const F32x16 low = Set1(1.6666665459e-1f) * r + Set1(5.0000001201e-1f);
  F32x16 y = ((high * r2 + middle) * r2 + low) * r2 + r + Set1(1.0f);
  // Times 2^n, n from -126 to 128, by adding to the exponent: between the two limits below the
  // result is finite and normal. Shifted left, the magic number's own bits fall out.
  y = FloatOf(BitsOf(y) + ShiftLeft(BitsOf(shifted), 23));
  y = Select(LessEqual(x, Set1(88.7228f)), y, x + Set1(__builtin_inff()));  // NaN stays here too
  return Select(Less(x, Set1(-87.33654f)), Zero(), y);
}

}  // namespace NIBBLE_ISA
}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_SIMD_H_
