#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <thread>
#include <vector>

#include "base/check.h"

namespace nibble::kernels::cpu {
namespace {

// About 10 us: longer than the gap between two operators of a step, far below a scheduler slice.
constexpr int kSpins = 500;

// `state`: bit 0 says that the loop admits threads, the bits above count those inside.
constexpr uint32_t kOpen = 1;
constexpr uint32_t kOneInside = 2;

inline void Pause() { __builtin_ia32_pause(); }

}  // namespace

struct ThreadPool::Shared {
  // The loop; written by Run while state is 0, read by threads inside.
  Body body = nullptr;
  void* context = nullptr;
  int64_t tiles = 0;
  alignas(64) std::atomic<int64_t> next_tile{0};
  alignas(64) std::atomic<uint32_t> state{0};
  // Raised once a loop, to wake the sleepers; raised a last time with `stop` set.
  alignas(64) std::atomic<uint32_t> generation{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers;

  void ClaimTiles(int thread) {
    for (;;) {
      const int64_t tile = next_tile.fetch_add(1, std::memory_order_relaxed);
      if (tile >= tiles) return;
      body(context, tile, thread);
    }
  }

  // False where the loop is over already.
  bool Enter() {
    uint32_t seen = state.load(std::memory_order_relaxed);
    while (seen & kOpen) {
      if (state.compare_exchange_weak(seen, seen + kOneInside, std::memory_order_acquire)) {
        return true;
      }
    }
    return false;
  }

  void Leave() {
    const uint32_t before = state.fetch_sub(kOneInside, std::memory_order_acq_rel);
    if (before == kOneInside) state.notify_all();  // closed, and this was the last
  }

  void Work(int thread) {
    uint32_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && generation.load(std::memory_order_acquire) == seen; ++i) {
        Pause();
      }
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      if (Enter()) {
        ClaimTiles(thread);
        Leave();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : shared_(new Shared) {
  NIBBLE_CHECK(threads >= 1);
  for (int i = 1; i < threads; ++i) {
    shared_->workers.emplace_back([this, i] { shared_->Work(i); });
  }
}

ThreadPool::~ThreadPool() {
  shared_->stop.store(true, std::memory_order_relaxed);
  shared_->generation.fetch_add(1, std::memory_order_release);
  shared_->generation.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
  delete shared_;
}

int ThreadPool::threads() const { return static_cast<int>(shared_->workers.size()) + 1; }

void ThreadPool::Run(int64_t tiles, Body body, void* context) {
  if (tiles <= 1 || shared_->workers.empty()) {
    for (int64_t tile = 0; tile < tiles; ++tile) body(context, tile, 0);
    return;
  }
  Shared& s = *shared_;
  s.body = body;
  s.context = context;
  s.tiles = tiles;
  s.next_tile.store(0, std::memory_order_relaxed);
  s.state.store(kOpen, std::memory_order_release);
  s.generation.fetch_add(1, std::memory_order_release);
  s.generation.notify_all();
  s.ClaimTiles(0);
  uint32_t inside = s.state.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  for (int i = 0; inside != 0 && i < kSpins; ++i) {
    Pause();
    inside = s.state.load(std::memory_order_acquire);
  }
  while (inside != 0) {
    s.state.wait(inside, std::memory_order_acquire);
    inside = s.state.load(std::memory_order_acquire);
  }
}

}  // namespace nibble::kernels::cpu
