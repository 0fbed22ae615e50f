#include "kernels/cpu/scratch.h"

#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace nibble::kernels::cpu {
namespace {
constexpr int64_t kAlignment = 4096;
}

Scratch::Scratch(int threads) : per_thread_(new Block[threads]), threads_(threads) {}

Scratch::~Scratch() {
  std::free(shared_.data);
  for (int i = 0; i < threads_; ++i) std::free(per_thread_[i].data);
  delete[] per_thread_;
}

void* Scratch::Shared(int64_t bytes) { return Grow(shared_, bytes); }

void* Scratch::ForThread(int thread, int64_t bytes) {
  NIBBLE_CHECK(thread >= 0 && thread < threads_);
  return Grow(per_thread_[thread], bytes);
}

void* Scratch::Grow(Block& block, int64_t bytes) {
  if (bytes > block.bytes) {
    std::free(block.data);
    const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    block.data = std::aligned_alloc(kAlignment, rounded);
    NIBBLE_CHECK(block.data != nullptr);
    std::memset(block.data, 0, rounded);
    block.bytes = rounded;
  }
  return block.data;
}

}  // namespace nibble::kernels::cpu
