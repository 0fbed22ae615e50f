// A fixed set of threads that share the tiles of one loop.
//
// Tiles are claimed in any order by any thread, so a tile must be computed whole by the thread that
// claims it, and must not depend on which thread that is: then results do not depend on the number
// of threads. Waiting is passive (a short spin, then a futex): threads that only spin collapse when
// the host takes a core away. A loop never waits for a thread that has not yet woken up.
//
// This header may be included where code is compiled for a particular instruction set: it emits no
// symbol that another object could share.
#ifndef KERNELS_CPU_THREAD_POOL_H_
#define KERNELS_CPU_THREAD_POOL_H_

#include <cstdint>

namespace nibble::kernels::cpu {

class ThreadPool {
 public:
  using Body = void (*)(void* context, int64_t tile, int thread);

  // `threads` >= 1 counts the caller of Run, which works too.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls body(context, tile, thread) once for each tile in [0, tiles), thread in [0, threads());
  // returns when all are done. Allocates nothing. One caller at a time; bodies must not call Run.
  void Run(int64_t tiles, Body body, void* context);

 private:
  struct Shared;
  Shared* shared_;
};

// pool.Run with a callable body(tile, thread).
template <class F>
static inline void ParallelFor(ThreadPool& pool, int64_t tiles, const F& body) {
  pool.Run(
      tiles,
      [](void* context, int64_t tile, int thread) {
        (*static_cast<const F*>(context))(tile, thread);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace nibble::kernels::cpu

#endif  // KERNELS_CPU_THREAD_POOL_H_
