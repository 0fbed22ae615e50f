// CRC-32C (Castagnoli), as iSCSI and LevelDB use it: reflected polynomial 0x82f63b78.
#ifndef BASE_CRC32C_H_
#define BASE_CRC32C_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace nibble {

// CRC of the bytes whose CRC so far is `crc` followed by `data`. Start with crc = 0.
uint32_t Crc32c(absl::string_view data, uint32_t crc = 0);

}  // namespace nibble

#endif  // BASE_CRC32C_H_
