// Tokens from memory as a DataSource.
#ifndef TESTS_TRAINING_MEMORY_DATA_H_
#define TESTS_TRAINING_MEMORY_DATA_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "worker/data/data_source.h"

namespace nibble::testing {

class MemoryData : public data::DataSource {
 public:
  MemoryData(std::vector<int32_t> tokens, int64_t vocab_size, int64_t sequence_length)
      : tokens_(std::move(tokens)), vocab_size_(vocab_size), length_(sequence_length) {}

  // Tokens with a rule to learn: each follows from the one before, but for some noise.
  static MemoryData Learnable(int64_t sequences, int64_t vocab_size, int64_t sequence_length,
                              uint32_t seed) {
    std::vector<int32_t> tokens(sequences * sequence_length + 1);
    uint32_t state = seed * 2654435761u + 1;
    int64_t token = seed % vocab_size;
    for (int32_t& out : tokens) {
      state = state * 1664525u + 1013904223u;
      token = (state >> 24) < 32 ? (state >> 8) % vocab_size : (token * 5 + 3) % vocab_size;
      out = static_cast<int32_t>(token);
    }
    return MemoryData(std::move(tokens), vocab_size, sequence_length);
  }

  int64_t vocab_size() const override { return vocab_size_; }
  int64_t sequence_length() const override { return length_; }
  int64_t sequences() const override {
    return (static_cast<int64_t>(tokens_.size()) - 1) / length_;
  }
  double bytes_per_token() const override { return 2.0; }
  // Sequence (5 position + seed) mod sequences(): every sequence once an epoch where 5 does not
  // divide their number.
  absl::Status ReadShuffled(uint64_t seed, int64_t position, int32_t* inputs,
                            int32_t* targets) const override {
    const uint64_t count = static_cast<uint64_t>(sequences());
    return ReadInOrder(static_cast<int64_t>((5 * static_cast<uint64_t>(position) + seed) % count),
                       inputs, targets);
  }
  absl::Status ReadInOrder(int64_t index, int32_t* inputs, int32_t* targets) const override {
    for (int64_t i = 0; i < length_; ++i) {
      inputs[i] = tokens_[index * length_ + i];
      targets[i] = tokens_[index * length_ + i + 1];
    }
    return absl::OkStatus();
  }

 private:
  const std::vector<int32_t> tokens_;
  const int64_t vocab_size_;
  const int64_t length_;
};

}  // namespace nibble::testing

#endif  // TESTS_TRAINING_MEMORY_DATA_H_
