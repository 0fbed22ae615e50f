#include "tests/fuzz/fuzz_target.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace nibble::fuzz {

std::vector<FuzzTarget> AllTargets() {
  std::vector<FuzzTarget> all;
  for (const auto& part :
       {SpecTargets(), ServerTargets(), TokenizerTargets(), ShardTargets(), CheckpointTargets()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

const FuzzTarget* FindTarget(absl::string_view name) {
  static const auto* const all = new std::vector<FuzzTarget>(AllTargets());
  for (const FuzzTarget& target : *all) {
    if (target.name == name) return &target;
  }
  return nullptr;
}

InputFile::InputFile(absl::string_view contents) : fd_(::memfd_create("input", MFD_CLOEXEC)) {
  Require(fd_ >= 0, "memfd_create");
  while (!contents.empty()) {
    const ssize_t written = ::write(fd_, contents.data(), contents.size());
    Require(written > 0, "writing to memory");
    contents.remove_prefix(static_cast<size_t>(written));
  }
  path_ = absl::StrCat("/proc/self/fd/", fd_);
}

InputFile::~InputFile() { ::close(fd_); }

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

}  // namespace nibble::fuzz
