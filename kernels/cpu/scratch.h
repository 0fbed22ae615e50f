// Working memory of operators: grows on first use, is kept, and is touched when it grows, so that
// a step of a fixed-shape loop neither allocates nor takes a page fault (12.9 us a page measured).
#ifndef KERNELS_CPU_SCRATCH_H_
#define KERNELS_CPU_SCRATCH_H_

#include <cstdint>

namespace nibble::kernels::cpu {

class Scratch {
 public:
  explicit Scratch(int threads);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least `bytes` bytes, 64-byte aligned, with any content. Valid until the next call (for the
  // same thread): an operator asks once and divides it. Shared() is for outside ParallelFor;
  // ForThread(thread) may be called inside, by that thread.
  void* Shared(int64_t bytes);
  void* ForThread(int thread, int64_t bytes);

 private:
  struct Block {
    void* data = nullptr;
    int64_t bytes = 0;
    char padding[48];  // threads grow their blocks at the same time
  };
  static void* Grow(Block& block, int64_t bytes);

  Block shared_;
  Block* per_thread_;
  int threads_;
};

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_SCRATCH_H_
