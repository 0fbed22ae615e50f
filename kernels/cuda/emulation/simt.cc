#include "kernels/cuda/emulation/simt.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "base/check.h"

namespace nibble::kernels::cuda {
namespace emulation {

Indices current;

namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kStackBytes = 128 * 1024;
constexpr int kWarpSize = 32;

// Threads that meet at a barrier. One that has returned is no longer waited for.
struct Barrier {
  int expected = 0;
  int arrived = 0;
  int64_t generation = 0;

  void Arrive() {
    ++arrived;
    ReleaseIfComplete();
  }
  void Leave() {
    --expected;
    ReleaseIfComplete();
  }
  void ReleaseIfComplete() {
    if (arrived == 0 || arrived < expected) return;
    arrived = 0;
    ++generation;
  }
};

struct Fiber {
  ucontext_t start;
  jmp_buf resume;
  std::vector<char> stack;
  bool started = false;
  bool done = false;
  const Barrier* waiting_for = nullptr;
  int64_t waiting_generation = 0;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Barrier> warps;
  std::vector<uint64_t> lanes;  // of exchanges, one a thread
  Barrier block;
  ucontext_t scheduler_start;
  jmp_buf scheduler;
  int running = 0;
  const std::function<void()>* body = nullptr;
  std::vector<uint64_t> shared;
  ThreadOrder order = ThreadOrder::kForward;
  int64_t blocks = 0;
};

Machine& TheMachine() {
  static Machine* machine = new Machine;
  return *machine;
}

// Back to the scheduler until `barrier` has passed the generation that it had.
void WaitAt(Barrier& barrier) {
  Machine& machine = TheMachine();
  Fiber& fiber = machine.fibers[machine.running];
  fiber.waiting_for = &barrier;
  fiber.waiting_generation = barrier.generation;
  barrier.Arrive();
  if (_setjmp(fiber.resume) == 0) _longjmp(machine.scheduler, 1);
}

// One thread index of all blocks: starting a context costs system calls, so it is done once.
void FiberMain() {
  Machine& machine = TheMachine();
  while (true) {
    (*machine.body)();
    Fiber& fiber = machine.fibers[machine.running];
    fiber.done = true;
    machine.block.Leave();
    machine.warps[machine.running / kWarpSize].Leave();
    if (_setjmp(fiber.resume) == 0) _longjmp(machine.scheduler, 1);
  }
}

// Runs thread `index` until its next barrier or its end.
void Resume(int index) {
  Machine& machine = TheMachine();
  Fiber& fiber = machine.fibers[index];
  machine.running = index;
  current.thread = dim3(index);
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

void PrepareFiber(Fiber& fiber) {
  fiber.done = false;
  fiber.waiting_for = nullptr;
  if (fiber.started) return;
  fiber.stack.resize(kStackBytes);
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = fiber.stack.size();
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, FiberMain, 0);
}

void PrepareBlock(int threads, int64_t shared_bytes) {
  Machine& machine = TheMachine();
  machine.fibers.resize(kMaxThreads);
  machine.lanes.assign(threads, 0);
  machine.block = Barrier{threads, 0, 0};
  machine.warps.assign((threads + kWarpSize - 1) / kWarpSize, Barrier{});
  for (int t = 0; t < threads; ++t) {
    PrepareFiber(machine.fibers[t]);
    ++machine.warps[t / kWarpSize].expected;
  }
  machine.shared.resize(shared_bytes / 8 + 32);
  // A NaN in FP32 and in BF16, and far out of range as an index.
  std::memset(machine.shared.data(), 0xFF, machine.shared.size() * 8);
}

// Runs thread `t` if it can; returns whether it could.
bool RunIfReady(int t) {
  const Fiber& fiber = TheMachine().fibers[t];
  if (fiber.done) return false;
  if (fiber.waiting_for != nullptr && fiber.waiting_for->generation == fiber.waiting_generation) {
    return false;
  }
  Resume(t);
  return true;
}

// `order`: of the threads; warps stay together but where it is shuffled. Each warp runs as far
// ahead of the others as barriers let it.
void RunBlock(int threads, std::vector<int>& order, std::mt19937& random) {
  Machine& machine = TheMachine();
  bool progress = true;
  while (progress) {
    progress = false;
    if (machine.order == ThreadOrder::kShuffled) std::shuffle(order.begin(), order.end(), random);
    for (int first = 0; first < threads; first += kWarpSize) {
      bool warp_progress = true;
      while (warp_progress) {
        warp_progress = false;
        for (int i = first; i < first + kWarpSize; ++i) warp_progress |= RunIfReady(order[i]);
        progress |= warp_progress;
      }
    }
  }
  for (int t = 0; t < threads; ++t) {
    NIBBLE_CHECK(machine.fibers[t].done);  // else a barrier that not all threads reach
  }
}

}  // namespace

void RunGrid(dim3 grid, int threads, int64_t shared_bytes, const std::function<void()>& body) {
  Machine& machine = TheMachine();
  NIBBLE_CHECK(threads > 0 && threads <= kMaxThreads && threads % kWarpSize == 0);
  NIBBLE_CHECK(grid.y <= 65535 && grid.z <= 65535 && grid.x <= 0x7fffffffu);
  machine.body = &body;
  current.grid_dim = grid;
  current.block_dim = dim3(threads);
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  if (machine.order == ThreadOrder::kReverse) std::reverse(order.begin(), order.end());
  std::mt19937 random(1);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        current.block.x = x;
        current.block.y = y;
        current.block.z = z;
        PrepareBlock(threads, shared_bytes);
        RunBlock(threads, order, random);
        ++machine.blocks;
      }
    }
  }
}

void* SharedMemory() {
  const uintptr_t at = reinterpret_cast<uintptr_t>(TheMachine().shared.data());
  return reinterpret_cast<void*>((at + 127) / 128 * 128);
}

void BlockBarrier() { WaitAt(TheMachine().block); }

void WarpBarrier() { WaitAt(TheMachine().warps[TheMachine().running / kWarpSize]); }

uint64_t Exchange(uint64_t bits, int from_lane) {
  Machine& machine = TheMachine();
  const int me = machine.running;
  machine.lanes[me] = bits;
  WarpBarrier();
  const uint64_t result = machine.lanes[me / kWarpSize * kWarpSize + from_lane];
  WarpBarrier();
  return result;
}

int Lane() { return TheMachine().running % kWarpSize; }

}  // namespace emulation

void SetThreadOrder(ThreadOrder order) { emulation::TheMachine().order = order; }
int64_t EmulatedBlocks() { return emulation::TheMachine().blocks; }

}  // namespace nibble::kernels::cuda
