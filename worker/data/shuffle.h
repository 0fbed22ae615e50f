// A random order that needs no memory: any position of any epoch is computed on its own. Internal
// to worker/data.
#ifndef WORKER_DATA_SHUFFLE_H_
#define WORKER_DATA_SHUFFLE_H_

#include <cstdint>

namespace nibble::data {

struct ShuffleKey {
  uint64_t seed = 0;
  uint64_t epoch = 0;
};

// Element `position` of a permutation of 0..count-1 that `key` picks: a Feistel network over the
// next even power of two, walked until it lands below `count` (Black and Rogaway, "Ciphers with
// arbitrary finite domains", 2002), with Philox4x32-10 as round function.
// REQUIRES: 0 <= position < count.
int64_t PermutedIndex(int64_t position, int64_t count, ShuffleKey key);

}  // namespace nibble::data

#endif  // WORKER_DATA_SHUFFLE_H_
