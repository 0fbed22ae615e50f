// Identifiers and jitter. For anything that training must reproduce use kernels/nvfp4/philox.h.
#ifndef BASE_RANDOM_H_
#define BASE_RANDOM_H_

#include <cstdint>
#include <string>

namespace nibble {

// Source of random 64-bit values, injected. Thread-safe.
class RandomSource {
 public:
  virtual ~RandomSource() = default;
  virtual uint64_t Next() = 0;
};

// The kernel's generator (getrandom). Lives for ever.
RandomSource& SystemRandom();

// `prefix` and 16 lower-case hex digits.
std::string MakeId(const std::string& prefix, RandomSource& random);

}  // namespace nibble

#endif  // BASE_RANDOM_H_
