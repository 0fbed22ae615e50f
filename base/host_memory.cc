#include "base/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble {
namespace {
constexpr int64_t kHugePage = int64_t{2} << 20;
}

absl::StatusOr<HostMemory> HostMemory::Allocate(int64_t bytes) {
  NIBBLE_CHECK(bytes >= 0);
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const auto exhausted = [&] {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot allocate ", bytes, " bytes; this machine has ", memory, " bytes of memory"));
  };
  if (bytes > memory) return exhausted();
  const int64_t unit = bytes >= kHugePage ? kHugePage : 4096;
  const int64_t mapped = (bytes + unit) / unit * unit;  // at least one page, also for 0 bytes
  void* data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return exhausted();
  if (bytes >= kHugePage) madvise(data, mapped, MADV_HUGEPAGE);
  std::memset(data, 0, mapped);
  HostMemory result;
  result.data_ = data;
  result.bytes_ = bytes;
  result.mapped_ = mapped;
  return result;
}

HostMemory::HostMemory(HostMemory&& other) noexcept { *this = std::move(other); }

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, mapped_);
}

}  // namespace nibble
