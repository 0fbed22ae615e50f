// Anonymous memory of the process, in huge pages where the kernel gives them, zeroed and touched
// page by page before it is handed out: a first touch costs up to 13 us a page, which must not fall
// into a step of training.
#ifndef BASE_HOST_MEMORY_H_
#define BASE_HOST_MEMORY_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace nibble {

// Movable.
class HostMemory {
 public:
  // RESOURCE_EXHAUSTED also where `bytes` exceeds the machine's memory. REQUIRES: bytes >= 0.
  static absl::StatusOr<HostMemory> Allocate(int64_t bytes);
  HostMemory() = default;
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  // Aligned to a page; null only where default-constructed or moved from.
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  int64_t mapped_ = 0;
};

}  // namespace nibble

#endif  // BASE_HOST_MEMORY_H_
