// Parsers of bytes that nobody vouches for, each as one function that must return for every input:
// no crash, no sanitizer's complaint, no hang, at most kMaxInputMemoryBytes of memory.
//
// The same functions run in two programs: parser_fuzzer (clang's libFuzzer with sanitizers, by
// tests/fuzz/run) and fuzz_smoke_test (some thousand mutations each, in every build).
#ifndef TESTS_FUZZ_FUZZ_TARGET_H_
#define TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace nibble::fuzz {

inline constexpr size_t kMaxInputBytes = 64 * 1024;
inline constexpr size_t kMaxInputMemoryBytes = size_t{64} << 20;

struct FuzzTarget {
  const char* name;
  // Whether the parser accepted it.
  bool (*run)(absl::string_view input);
  // Where mutation starts from; made by code. The parser accepts the first.
  std::vector<std::string> (*seeds)();
};

// Each file of targets has one.
std::vector<FuzzTarget> SpecTargets();
std::vector<FuzzTarget> ServerTargets();
std::vector<FuzzTarget> TokenizerTargets();
std::vector<FuzzTarget> ShardTargets();
std::vector<FuzzTarget> CheckpointTargets();

std::vector<FuzzTarget> AllTargets();
// Null where there is none.
const FuzzTarget* FindTarget(absl::string_view name);

// The input as a file that can be opened by its path as long as the object lives; in memory.
class InputFile {
 public:
  explicit InputFile(absl::string_view contents);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

// Aborts, which both programs report with the input: a property that must hold does not.
void Require(bool holds, const char* what);

}  // namespace nibble::fuzz

#endif  // TESTS_FUZZ_FUZZ_TARGET_H_
