#include "base/random.h"

#include <sys/random.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace nibble {
namespace {

class KernelRandom : public RandomSource {
 public:
  uint64_t Next() override {
    uint64_t value = 0;
    NIBBLE_CHECK(getrandom(&value, sizeof(value), 0) == sizeof(value));
    return value;
  }
};

}  // namespace

RandomSource& SystemRandom() {
  static KernelRandom* const source = new KernelRandom;
  return *source;
}

std::string MakeId(const std::string& prefix, RandomSource& random) {
  return absl::StrCat(prefix, absl::Hex(random.Next(), absl::kZeroPad16));
}

}  // namespace nibble
