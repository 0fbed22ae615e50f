#include "tests/fuzz/regressions.h"

namespace nibble::fuzz {

std::vector<Regression> Regressions() { return {}; }

}  // namespace nibble::fuzz
