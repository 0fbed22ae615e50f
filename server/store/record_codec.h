// Binary form of the records as they lie in jobs.db: little-endian, strings and lists with their
// length in front, a version byte first. See docs/formats/state_directory.md.
#ifndef SERVER_STORE_RECORD_CODEC_H_
#define SERVER_STORE_RECORD_CODEC_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/scheduler/types.h"

namespace nibble::store {

// Appends values to a string.
class Encoder {
 public:
  void U8(uint8_t value) { out_.push_back(static_cast<char>(value)); }
  void I64(int64_t value) { Raw(&value, sizeof(value)); }
  void I32(int32_t value) { Raw(&value, sizeof(value)); }
  void F64(double value) { Raw(&value, sizeof(value)); }
  void Text(absl::string_view value) {
    I32(static_cast<int32_t>(value.size()));
    out_.append(value.data(), value.size());
  }
  std::string Take() { return std::move(out_); }

 private:
  void Raw(const void* data, size_t bytes) { out_.append(static_cast<const char*>(data), bytes); }
  std::string out_;
};

// Reads them back. Never past the end: a value that is not there reads as 0 or "", and ok() is
// false from then on.
class Decoder {
 public:
  explicit Decoder(absl::string_view data) : data_(data) {}
  uint8_t U8() { return Raw<uint8_t>(); }
  int64_t I64() { return Raw<int64_t>(); }
  int32_t I32() { return Raw<int32_t>(); }
  double F64() { return Raw<double>(); }
  std::string Text() {
    const int32_t size = I32();
    if (!ok_ || size < 0 || static_cast<size_t>(size) > data_.size()) {
      ok_ = false;
      return "";
    }
    std::string value(data_.substr(0, size));
    data_.remove_prefix(size);
    return value;
  }
  // A count of things of at least `bytes_each` bytes that follow.
  int32_t Count(size_t bytes_each) {
    const int32_t count = I32();
    if (!ok_ || count < 0 || static_cast<size_t>(count) > data_.size() / bytes_each) ok_ = false;
    return ok_ ? count : 0;
  }
  bool ok() const { return ok_; }
  // Everything was there, and nothing more.
  bool AtEnd() const { return ok_ && data_.empty(); }

 private:
  template <typename T>
  T Raw() {
    T value{};
    if (!ok_ || data_.size() < sizeof(T)) {
      ok_ = false;
      return value;
    }
    std::memcpy(&value, data_.data(), sizeof(T));
    data_.remove_prefix(sizeof(T));
    return value;
  }
  absl::string_view data_;
  bool ok_ = true;
};

// The record without its document.
std::string EncodeJob(const scheduler::JobRecord& job);
std::string EncodeDocument(const scheduler::JobDocument& document);
std::string EncodeEvent(const scheduler::JobEventRecord& event);
std::string EncodeCheckpoint(const scheduler::CheckpointRecord& checkpoint);
std::string EncodeWorker(const scheduler::WorkerRecord& worker);
std::string EncodeUsage(const scheduler::ProjectUsage& usage);

// Of this version or an earlier one. DATA_LOSS where the bytes are not such a record. A job of
// version 1 has a placement without slots: they are those of its document.
absl::StatusOr<scheduler::JobRecord> DecodeJob(absl::string_view data);
absl::StatusOr<scheduler::JobDocument> DecodeDocument(absl::string_view data);
absl::StatusOr<scheduler::JobEventRecord> DecodeEvent(absl::string_view data);
absl::StatusOr<scheduler::CheckpointRecord> DecodeCheckpoint(absl::string_view data);
absl::StatusOr<scheduler::WorkerRecord> DecodeWorker(absl::string_view data);
absl::StatusOr<scheduler::ProjectUsage> DecodeUsage(absl::string_view data);

}  // namespace nibble::store

#endif  // SERVER_STORE_RECORD_CODEC_H_
