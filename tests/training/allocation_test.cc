// A step of a running job allocates nothing: this program counts every operator new. The reference
// backend is an oracle and may.
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "tests/training/training_setup.h"

namespace {
std::atomic<int64_t> allocations{0};

void* CountedNew(size_t size, size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory =
      alignment <= alignof(std::max_align_t)
          ? std::malloc(size == 0 ? 1 : size)
          : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) std::abort();
  return memory;
}
}  // namespace

void* operator new(size_t size) { return CountedNew(size, 1); }
void* operator new[](size_t size) { return CountedNew(size, 1); }
void* operator new(size_t size, std::align_val_t alignment) {
  return CountedNew(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return CountedNew(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace nibble::testing {
namespace {

struct AllocationCase {
  const char* backend;
  Recipe recipe;
  model::Family family = model::Family::kLlama;
};

class AllocationTest : public ::testing::TestWithParam<AllocationCase> {};

// Seen red with a std::vector in Trainer::EnqueueStep.
TEST_P(AllocationTest, AStepAllocatesNothing) {
  trainer::TrainingConfig config = SmallConfig(GetParam().recipe, GetParam().family);
  config.steps = 10;
  const Bench bench(config, GetParam().backend, /*threads=*/2);
  const auto trainer = bench.MakeTrainer();
  // Operators' own scratch memory grows on first use; one evaluation is between steps of a run.
  for (int i = 0; i < 3; ++i) ASSERT_THAT(trainer->Step(), IsOk());
  ASSERT_THAT(trainer->Evaluate(), IsOk());
  ASSERT_THAT(trainer->Step(), IsOk());
  const int64_t before = allocations;
  ASSERT_GT(before, 0) << "the counter does not count";
  bool ok = true;
  for (int i = 0; i < 3; ++i) ok = trainer->Step().ok() && ok;
  const int64_t made = allocations - before;
  EXPECT_TRUE(ok);
  EXPECT_EQ(made, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, AllocationTest,
    ::testing::Values(AllocationCase{"cpu", Recipe::kFp32}, AllocationCase{"cpu", Recipe::kBf16},
                      AllocationCase{"cpu", Recipe::kNvfp4},
                      AllocationCase{"cpu", Recipe::kNvfp4, model::Family::kGpt2},
                      AllocationCase{"cpu", Recipe::kNvfp4, model::Family::kNemotronH}));

}  // namespace
}  // namespace nibble::testing
