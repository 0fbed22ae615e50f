#include "base/bulk_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace nibble {

void BulkCopy(void* to, const void* from, size_t bytes) {
#if defined(__x86_64__)
  constexpr size_t kLine = 64;
  auto* target = static_cast<char*>(to);
  auto* source = static_cast<const char*>(from);
  // Whole lines only: a part of one would be written back by itself.
  const size_t before = std::min(-reinterpret_cast<uintptr_t>(target) % kLine, bytes);
  std::memcpy(target, source, before);
  target += before;
  source += before;
  bytes -= before;
  for (; bytes >= kLine; bytes -= kLine, target += kLine, source += kLine) {
    const auto* line = reinterpret_cast<const __m128i*>(source);
    const __m128i a = _mm_loadu_si128(line), b = _mm_loadu_si128(line + 1);
    const __m128i c = _mm_loadu_si128(line + 2), d = _mm_loadu_si128(line + 3);
    auto* out = reinterpret_cast<__m128i*>(target);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
  std::memcpy(target, source, bytes);
  // Such stores are not ordered with later ones by themselves.
  _mm_sfence();
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace nibble
