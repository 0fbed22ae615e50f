#include "worker/data/shuffle.h"

#include "kernels/nvfp4/philox.h"

namespace nibble::data {
namespace {

// Four suffice for a random round function; small domains mix better with a few more.
constexpr uint32_t kRounds = 8;

// One pass of the network over values of 2 * half_bits bits.
uint64_t Encipher(uint64_t value, int half_bits, ShuffleKey key) {
  const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << half_bits) - 1);
  auto left = static_cast<uint32_t>(value >> half_bits);
  auto right = static_cast<uint32_t>(value) & mask;
  for (uint32_t round = 0; round < kRounds; ++round) {
    const PhiloxResult random = Philox4x32(
        right, round, static_cast<uint32_t>(key.epoch), static_cast<uint32_t>(key.epoch >> 32),
        static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
    const uint32_t next = left ^ (random.v[0] & mask);
    left = right;
    right = next;
  }
  return static_cast<uint64_t>(left) << half_bits | right;
}

}  // namespace

int64_t PermutedIndex(int64_t position, int64_t count, ShuffleKey key) {
  int half_bits = 1;
  while (half_bits < 32 && (uint64_t{1} << (2 * half_bits)) < static_cast<uint64_t>(count)) {
    ++half_bits;
  }
  auto value = static_cast<uint64_t>(position);
  // A permutation's cycle through `position` comes back below `count`; four passes on average at
  // most, since count is over a quarter of the domain.
  do {
    value = Encipher(value, half_bits, key);
  } while (value >= static_cast<uint64_t>(count));
  return static_cast<int64_t>(value);
}

}  // namespace nibble::data
