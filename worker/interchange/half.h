// IEEE 754 binary16.
#ifndef WORKER_INTERCHANGE_HALF_H_
#define WORKER_INTERCHANGE_HALF_H_

#include <cstdint>

namespace nibble::interchange {

float HalfToFloat(uint16_t bits);
// Nearest even; too large values become infinite.
uint16_t FloatToHalf(float value);

}  // namespace nibble::interchange

#endif  // WORKER_INTERCHANGE_HALF_H_
