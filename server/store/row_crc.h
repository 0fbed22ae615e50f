// The checksum of a row: CRC32C over its columns, each in a form that says where it ends.
#ifndef SERVER_STORE_ROW_CRC_H_
#define SERVER_STORE_ROW_CRC_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/crc32c.h"

namespace nibble::store {

class RowCrc {
 public:
  // The table's name goes in too: a row moved to another table does not pass.
  explicit RowCrc(absl::string_view table) { Add(table); }
  RowCrc& Add(int64_t value) {
    crc_ = Crc32c({reinterpret_cast<const char*>(&value), sizeof(value)}, crc_);
    return *this;
  }
  RowCrc& Add(absl::string_view bytes) {
    Add(static_cast<int64_t>(bytes.size()));
    crc_ = Crc32c(bytes, crc_);
    return *this;
  }
  int64_t value() const { return crc_; }

 private:
  uint32_t crc_ = 0;
};

// What a read of a damaged row answers.
inline absl::Status CorruptRowError(absl::string_view table, absl::string_view key) {
  return absl::DataLossError(
      absl::StrCat("row ", key, " of table ", table, " fails its checksum; it is kept as it is"));
}

}  // namespace nibble::store

#endif  // SERVER_STORE_ROW_CRC_H_
