// A status that says the machine failed, not the program or its input: a GPU's sticky error, for
// one. Its code is UNAVAILABLE (another machine may do); the mark tells it from a peer that cannot
// be reached.
#ifndef BASE_HARDWARE_ERROR_H_
#define BASE_HARDWARE_ERROR_H_

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace nibble {

inline constexpr absl::string_view kHardwareErrorMark = "nibble/hardware";

inline absl::Status HardwareError(absl::string_view message) {
  absl::Status status = absl::UnavailableError(message);
  status.SetPayload(kHardwareErrorMark, absl::Cord("1"));
  return status;
}
inline bool IsHardwareError(const absl::Status& status) {
  return status.GetPayload(kHardwareErrorMark).has_value();
}

}  // namespace nibble

#endif  // BASE_HARDWARE_ERROR_H_
