// What the CPU backend's operators stand on: the thread pool, its scratch memory, tile products
// and the choice of an instruction set.
//
// Seen red: a loop that returns while a late thread still works, a claim counter that is not reset,
// a cached primitive used for other strides, an ignored `accumulate`.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <thread>
#include <utility>
#include <vector>

#include "base/status_matchers.h"
#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/ops/operator_harness.h"

// libgomp, as in gemm.cc.
extern "C" void omp_set_num_threads(int threads);

namespace nibble::kernels::cpu {
namespace {

TEST(ThreadPoolTest, EveryTileRunsExactlyOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t tiles : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(tiles);
      ParallelFor(pool, tiles, [&](int64_t tile, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        runs[tile].fetch_add(1);
      });
      for (const auto& count : runs) EXPECT_EQ(count.load(), 1);
    }
  }
}

// The caller runs out of tiles while another thread, which it waited to see, is still in one; then
// the next loop begins at once.
TEST(ThreadPoolTest, ALoopEndsAfterItsLastTile) {
  ThreadPool pool(4);
  int64_t met = 0;
  for (int64_t loop = 0; loop < 300; ++loop) {
    std::atomic<int64_t> sum{0};
    std::atomic<bool> other{false};
    ParallelFor(pool, 5, [&](int64_t tile, int thread) {
      if (thread != 0) other.store(true);
      // Bounded, because no thread need come.
      for (int i = 0; i < (thread == 0 ? 1000000 : 50000); ++i) {
        if (other.load() && thread == 0) break;
      }
      sum.fetch_add(loop + tile);
    });
    ASSERT_EQ(sum.load(), 5 * loop + 10);
    met += other.load() ? 1 : 0;
  }
  EXPECT_GT(met, 0);
}

TEST(ScratchTest, GrowsAndIsKept) {
  Scratch scratch(2);
  char* first = static_cast<char*>(scratch.ForThread(1, 1000));
  first[999] = 1;
  EXPECT_EQ(scratch.ForThread(1, 500), first);
  EXPECT_NE(scratch.ForThread(0, 500), first);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(scratch.Shared(10)) % 64, 0u);
}

TEST(IsaTest, TheEnvironmentNamesAnInstructionSet) {
  setenv("NIBBLE_CPU_ISA", "baseline", 1);
  EXPECT_EQ(ChooseIsa().value(), Isa::kBaseline);
  setenv("NIBBLE_CPU_ISA", "mmx", 1);
  EXPECT_EQ(ChooseIsa().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(CreateBackend("cpu", {.threads = 1}).ok());
  unsetenv("NIBBLE_CPU_ISA");
  EXPECT_EQ(ChooseIsa().value(), DetectIsa());
  EXPECT_FALSE(CreateBackend("cpu", {.threads = -1}).ok());
  EXPECT_FALSE(CreateBackend("cpu", {.threads = 100000}).ok());
  EXPECT_FALSE(CreateBackend("tpu", {}).ok());
}

// A tile in the middle of larger matrices, so that strides differ from sizes.
struct TileCase {
  int64_t m, n, k;
  bool a_transposed, b_transposed, accumulate;
};

void ExpectTile(const TileCase& t, DType type, void (*multiply)(const TileProduct&),
                int64_t margin = 5) {
  const auto matrix = [&](int64_t rows, int64_t cols, uint32_t seed) {
    return Inputs(seed).Normal(DType::kBF16, rows * (cols + margin));
  };
  const int64_t a_rows = t.a_transposed ? t.k : t.m, a_cols = t.a_transposed ? t.m : t.k;
  const int64_t b_rows = t.b_transposed ? t.n : t.k, b_cols = t.b_transposed ? t.k : t.n;
  const std::vector<float> a = matrix(a_rows, a_cols, 1), b = matrix(b_rows, b_cols, 2);
  const std::vector<float> before = matrix(t.m, t.n, 3);
  std::vector<float> c = before;
  std::vector<uint16_t> a_narrow(a.size()), b_narrow(b.size());
  for (size_t i = 0; i < a.size(); ++i) a_narrow[i] = ToBf16Bits(a[i]);
  for (size_t i = 0; i < b.size(); ++i) b_narrow[i] = ToBf16Bits(b[i]);
  const bool narrow = type == DType::kBF16;
  TileProduct p;
  p.m = t.m;
  p.n = t.n;
  p.k = t.k;
  p.a = {narrow ? static_cast<const void*>(a_narrow.data()) : a.data(), type, a_cols + margin,
         t.a_transposed};
  p.b = {narrow ? static_cast<const void*>(b_narrow.data()) : b.data(), type, b_cols + margin,
         t.b_transposed};
  p.c = c.data();
  p.c_stride = t.n + margin;
  p.accumulate = t.accumulate;
  multiply(p);
  for (int64_t m = 0; m < t.m; ++m) {
    for (int64_t n = 0; n < t.n + margin; ++n) {
      const int64_t at = m * p.c_stride + n;
      if (n >= t.n) {
        ASSERT_EQ(c[at], before[at]) << "written beside the tile";
        continue;
      }
      double want = t.accumulate ? before[at] : 0, magnitude = std::fabs(want);
      for (int64_t k = 0; k < t.k; ++k) {
        const double term = double{a[t.a_transposed ? k * p.a.stride + m : m * p.a.stride + k]} *
                            b[t.b_transposed ? n * p.b.stride + k : k * p.b.stride + n];
        want += term;
        magnitude += std::fabs(term);
      }
      // FP32 accumulation in any order.
      ASSERT_NEAR(c[at], want, (t.k + 2) * std::ldexp(magnitude, -24));
    }
  }
}

std::vector<TileCase> TileCases() {
  std::vector<TileCase> cases;
  for (const auto& [m, n, k] : {std::tuple{16, 16, 16}, {64, 64, 64}, {33, 70, 129}, {1, 16, 48}}) {
    for (int flags = 0; flags < 8; ++flags) {
      cases.push_back({m, n, k, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0});
    }
  }
  return cases;
}

TEST(TileProductTest, Fp32AndBf16SidesEqualTheExactProduct) {
  for (const TileCase& t : TileCases()) {
    ExpectTile(t, DType::kF32, MultiplyTile);
    ExpectTile(t, DType::kBF16, MultiplyTile);
  }
}

// The cached primitives that BF16 takes on machines that multiply it, here with FP32 sides; every
// case twice, so that the second finds its primitive in the cache, and again with other strides.
TEST(TileProductTest, CachedPrimitivesEqualTheExactProduct) {
  for (int64_t margin : {5, 5, 9}) {
    for (const TileCase& t : TileCases()) {
      ExpectTile(t, DType::kF32, MultiplyTileByPrimitive, margin);
      if (NativeBf16Products()) ExpectTile(t, DType::kBF16, MultiplyTileByPrimitive, margin);
    }
  }
}

TEST(TileProductTest, EveryThreadGivesTheSameBits) {
  constexpr int64_t kSize = 96;
  const std::vector<float> a = Inputs(1).Normal(DType::kF32, kSize * kSize);
  std::vector<std::vector<float>> results(16, std::vector<float>(kSize * kSize));
  ThreadPool pool(3);
  ParallelFor(pool, 16, [&](int64_t tile, int) {
    Sgemm(false, true, kSize, kSize, kSize, 1, a.data(), kSize, a.data(), kSize, 0,
          results[tile].data(), kSize);
  });
  for (const auto& result : results) EXPECT_EQ(result, results[0]);
}

int ThreadsOfThisProcess() {
  const auto tasks = std::filesystem::directory_iterator("/proc/self/task");
  return static_cast<int>(
      std::distance(std::filesystem::begin(tasks), std::filesystem::end(tasks)));
}

// oneDNN splits a long dot product over OpenMP's threads, and then adds up the parts: the number of
// processors would show in the weights. Seen red without omp_set_num_threads(1) in gemm.cc.
TEST(TileProductTest, OpenMpHasNoSayInAProduct) {
  constexpr int64_t kSide = 16, kDepth = 65'536;
  std::vector<float> a(kSide * kDepth);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i * 7919 % 2003) / 997.0f - 1.0f;
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 4}) {
    std::vector<float> c(kSide * kSide);
    int more = 0;
    std::thread([&] {
      omp_set_num_threads(threads);  // of this thread, which has called no product yet
      const int before = ThreadsOfThisProcess();
      Sgemm(false, true, kSide, kSide, kDepth, 1, a.data(), kDepth, a.data(), kDepth, 0, c.data(),
            kSide);
      more = ThreadsOfThisProcess() - before;
    }).join();
    EXPECT_EQ(more, 0) << threads << " threads wanted";
    results.push_back(std::move(c));
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace nibble::kernels::cpu
