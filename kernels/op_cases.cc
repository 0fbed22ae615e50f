#include "kernels/op_cases.h"

#include <sys/stat.h>

#include <cerrno>
#include <cmath>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace nibble::kernels {

absl::StatusOr<std::unique_ptr<OpCaseReader>> OpCaseReader::Open(const std::string& path,
                                                                 int64_t granularity) {
  FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  struct stat info = {};
  const bool known = fstat(fileno(file), &info) == 0 && S_ISREG(info.st_mode);
  auto reader = absl::WrapUnique(new OpCaseReader(file, known ? info.st_size : 0, granularity));
  if (!known) return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  NIBBLE_RETURN_IF_ERROR(reader->Read(&reader->count_, sizeof(reader->count_)));
  if (reader->count_ < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the number of cases is ", reader->count_, "; it takes 0 or more"));
  }
  return reader;
}

absl::Status OpCaseReader::Read(void* to, int64_t bytes) {
  if (bytes > bytes_left_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the file ends early: ", bytes, " bytes are expected, ", bytes_left_, " are left"));
  }
  if (std::fread(to, 1, bytes, file_.get()) != static_cast<size_t>(bytes)) {
    return absl::ErrnoToStatus(errno, "cannot read");
  }
  bytes_left_ -= bytes;
  return absl::OkStatus();
}

absl::StatusOr<OpCase> OpCaseReader::Next() {
  const int32_t number = next_++;
  const auto malformed = [number](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("case ", number, ": ", what));
  };
  int32_t head[3];
  if (absl::Status status = Read(head, sizeof(head)); !status.ok()) {
    return malformed(status.message());
  }
  OpCase result;
  result.tile = head[0];
  result.rows = head[1];
  result.cols = head[2];
  if (result.tile != 1 && result.tile != 16) {
    return malformed(absl::StrCat("tile is ", result.tile, "; it takes 1 or 16"));
  }
  if (result.rows <= 0 || result.cols <= 0 || result.rows % granularity_ != 0 ||
      result.cols % granularity_ != 0) {
    return malformed(absl::StrCat("the matrix is [", result.rows, ", ", result.cols,
                                  "]; both take positive multiples of ", granularity_));
  }
  // Both are below 2^31: the product fits 64 bits, and only four times it may not.
  const int64_t elements = result.rows * result.cols;
  if (elements > bytes_left_ / static_cast<int64_t>(sizeof(float))) {
    return malformed(absl::StrCat("the file ends early: the matrix has ", elements, " elements, ",
                                  bytes_left_, " bytes are left"));
  }
  const int64_t bytes = elements * static_cast<int64_t>(sizeof(float));
  result.x.resize(elements);
  if (absl::Status status = Read(result.x.data(), bytes); !status.ok()) {
    return malformed(status.message());
  }
  for (float value : result.x) {
    if (std::isnan(value)) return malformed("an element is NaN");
  }
  return result;
}

absl::Status OpCaseReader::ExpectEnd() const {
  if (bytes_left_ == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(bytes_left_, " bytes follow the last of ", count_, " cases"));
}

}  // namespace nibble::kernels
