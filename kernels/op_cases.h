// The input of op_runner: int32 n; then n cases, each int32 tile (1 or 16), int32 rows, int32 cols
// and rows * cols FP32, row-major; all little-endian.
#ifndef KERNELS_OP_CASES_H_
#define KERNELS_OP_CASES_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace nibble::kernels {

struct OpCase {
  int32_t tile = 1;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> x;  // [rows, cols]
};

// Reads one case after the other, so that memory is bounded by the largest. Nothing is allocated
// before the file was seen to be long enough for it.
class OpCaseReader {
 public:
  // NOT_FOUND, PERMISSION_DENIED; INVALID_ARGUMENT: not a regular file, or its head is malformed.
  // Dimensions of every case are to be multiples of `granularity`.
  static absl::StatusOr<std::unique_ptr<OpCaseReader>> Open(const std::string& path,
                                                            int64_t granularity);

  int32_t count() const { return count_; }
  // INVALID_ARGUMENT, with the number of the case: a tile other than 1 or 16, a dimension that is
  // not a positive multiple of the granularity, a NaN, or the file is too short.
  absl::StatusOr<OpCase> Next();
  // INVALID_ARGUMENT: bytes follow the last case.
  absl::Status ExpectEnd() const;

 private:
  struct Closer {
    void operator()(FILE* file) const { std::fclose(file); }
  };
  OpCaseReader(FILE* file, int64_t bytes, int64_t granularity)
      : file_(file), bytes_left_(bytes), granularity_(granularity) {}
  absl::Status Read(void* to, int64_t bytes);

  std::unique_ptr<FILE, Closer> file_;
  int64_t bytes_left_;
  const int64_t granularity_;
  int32_t count_ = 0;
  int32_t next_ = 0;
};

}  // namespace nibble::kernels

#endif  // KERNELS_OP_CASES_H_
