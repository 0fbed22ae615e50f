// Every parser over its seeds, some thousand mutations of them, and the inputs that once broke it.
// Seen red with Decoder::Text of the record codec not looking at what is left.
//
// An input that breaks a parser is left in /tmp/fuzz-failure-<parser>. NIBBLE_FUZZ_RUNS asks for
// more.
#include <google/protobuf/stubs/logging.h>
#include <malloc.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <new>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/regressions.h"

namespace {
std::atomic<int64_t> live_bytes{0};
std::atomic<int64_t> peak_bytes{0};

void* Allocate(size_t bytes) {
  void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) std::abort();
  const int64_t live = live_bytes += static_cast<int64_t>(::malloc_usable_size(memory));
  if (live > peak_bytes) peak_bytes = live;
  return memory;
}
void Free(void* memory) {
  if (memory == nullptr) return;
  live_bytes -= static_cast<int64_t>(::malloc_usable_size(memory));
  std::free(memory);
}
}  // namespace

// What this program and the libraries under it allocate is counted.
void* operator new(size_t bytes) { return Allocate(bytes); }
void* operator new[](size_t bytes) { return Allocate(bytes); }
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete[](void* memory) noexcept { Free(memory); }
void operator delete(void* memory, size_t) noexcept { Free(memory); }
void operator delete[](void* memory, size_t) noexcept { Free(memory); }

namespace nibble::fuzz {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kRuns = 4000;
// Of one parser, whatever the number of runs; under a sanitizer fewer are made.
constexpr auto kMostTime = std::chrono::milliseconds(1500);
constexpr auto kMostTimeOfOneInput = std::chrono::seconds(5);

class Mutator {
 public:
  Mutator(const std::vector<std::string>& seeds, unsigned seed) : seeds_(seeds), random_(seed) {}

  std::string Next() {
    std::string input = seeds_[Below(seeds_.size())];
    for (size_t i = 0, count = 1 + Below(8); i < count; ++i) Mutate(&input);
    if (input.size() > kMaxInputBytes) input.resize(kMaxInputBytes);
    return input;
  }

 private:
  size_t Below(size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  void Mutate(std::string* input) {
    const size_t at = Below(input->size() + 1);
    const size_t length = Below(std::min<size_t>(64, input->size() - at + 1));
    switch (Below(8)) {
      case 0:
        if (at < input->size()) (*input)[at] ^= static_cast<char>(1 << Below(8));
        break;
      case 1:
        if (at < input->size()) (*input)[at] = static_cast<char>(random_());
        break;
      case 2:
        input->erase(at, length);
        break;
      case 3:
        input->insert(at, input->substr(Below(input->size() + 1), 1 + Below(32)));
        break;
      case 4: {  // an extreme number
        constexpr uint64_t kNumbers[] = {
            0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, INT64_MAX, UINT64_MAX};
        const uint64_t number = kNumbers[Below(std::size(kNumbers))];
        const size_t bytes = size_t{1} << Below(4);
        if (at + bytes <= input->size()) {
          input->replace(at, bytes, reinterpret_cast<const char*>(&number), bytes);
        }
        break;
      }
      case 5: {
        constexpr const char* kWords[] = {"18446744073709551615",
                                          "-1",
                                          "1e308",
                                          "nan",
                                          "[[[[[[",
                                          "{\"a\":",
                                          "\\u0000",
                                          "\xff\xfe",
                                          "null",
                                          "\"\"",
                                          "..",
                                          "/"};
        input->insert(at, kWords[Below(std::size(kWords))]);
        break;
      }
      case 6: {  // another seed's end
        const std::string& other = seeds_[Below(seeds_.size())];
        *input = input->substr(0, at) + other.substr(Below(other.size() + 1));
        break;
      }
      default: {
        const std::string part = input->substr(at, length);
        for (size_t i = Below(16); i > 0; --i) input->insert(at, part);
      }
    }
  }

  const std::vector<std::string>& seeds_;
  std::mt19937 random_;
};

std::string FailurePath(const char* target) {
  return absl::StrCat(::testing::TempDir(), "fuzz-failure-", target);
}

void RunOne(const FuzzTarget& target, const std::string& input) {
  const std::string path = FailurePath(target.name);
  const int64_t before = live_bytes;
  peak_bytes = before;
  const auto start = Clock::now();
  target.run(input);
  const bool too_large = peak_bytes - before > static_cast<int64_t>(kMaxInputMemoryBytes);
  const bool too_slow = Clock::now() - start > kMostTimeOfOneInput;
  if (!too_large && !too_slow) return;
  std::ofstream(path, std::ios::binary) << input;
  FAIL() << target.name << (too_large ? " took too much memory" : " took too long") << " for "
         << path;
}

// Where a parser crashes: the input is in the core, and in this file.
const std::string* current_input = nullptr;
const char* current_target = nullptr;
extern "C" void SaveInput(int signal) {
  if (current_input != nullptr) {
    std::ofstream(FailurePath(current_target), std::ios::binary) << *current_input;
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

class FuzzSmokeTest : public ::testing::TestWithParam<FuzzTarget> {};

TEST_P(FuzzSmokeTest, SurvivesSeedsMutationsAndRegressions) {
  const FuzzTarget& target = GetParam();
  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGBUS}) std::signal(signal, SaveInput);
  current_target = target.name;
  const std::vector<std::string> seeds = target.seeds();
  ASSERT_FALSE(seeds.empty());
  google::protobuf::SetLogHandler(nullptr);
  EXPECT_TRUE(target.run(seeds[0])) << "the first seed is not accepted: mutations do not get far";
  std::vector<std::string> inputs = seeds;
  inputs.push_back("");
  for (const Regression& regression : Regressions()) {
    if (regression.target == std::string(target.name)) inputs.push_back(regression.input);
  }
  for (const std::string& input : inputs) {
    current_input = &input;
    RunOne(target, input);
  }
  const char* runs = std::getenv("NIBBLE_FUZZ_RUNS");
  const int count = runs != nullptr ? std::atoi(runs) : kRuns;
  Mutator mutator(seeds, 1);
  const auto end = Clock::now() + kMostTime;
  for (int i = 0; i < count && !HasFailure(); ++i) {
    if (runs == nullptr && Clock::now() > end) break;
    const std::string input = mutator.Next();
    current_input = &input;
    RunOne(target, input);
  }
  current_input = nullptr;
}

INSTANTIATE_TEST_SUITE_P(Parsers, FuzzSmokeTest, ::testing::ValuesIn(AllTargets()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace nibble::fuzz
