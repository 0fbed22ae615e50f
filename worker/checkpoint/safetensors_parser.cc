#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "nlohmann/json.hpp"
#include "worker/checkpoint/safetensors.h"

namespace nibble::checkpoint {
namespace {

struct DTypeSize {
  const char* name;
  uint64_t bytes;
};
constexpr DTypeSize kDTypes[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},
                                 {"I32", 4}, {"I16", 2}, {"I8", 1},  {"U64", 8},  {"U32", 4},
                                 {"U16", 2}, {"U8", 1},  {"BOOL", 1}};
constexpr absl::string_view kMetadata = "__metadata__";

// A name from a file, fit for a message.
std::string Quoted(absl::string_view name) {
  return absl::StrCat("'", EscapeControlCharacters(name.substr(0, 80)), "'");
}

// Takes the header's JSON token by token and refuses the first one that has no place there, so that
// neither depth nor size of hostile JSON costs memory.
class HeaderHandler {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  std::vector<TensorInfo> TakeTensors() { return std::move(tensors_); }
  const std::string& error() const { return error_; }
  bool finished() const { return state_ == State::kEnd; }

  bool null() { return Refuse("null"); }
  bool boolean(bool) { return Refuse("a boolean"); }
  bool number_float(number_float_t, const string_t&) { return Refuse("a fraction"); }
  bool number_integer(number_integer_t) { return Refuse("a negative number"); }
  bool binary(binary_t&) { return Refuse("binary data"); }
  bool number_unsigned(number_unsigned_t value);
  bool string(string_t& value);
  bool start_object(size_t);
  bool end_object();
  bool start_array(size_t);
  bool end_array();
  bool key(string_t& name);
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) {
    return Fail(absl::StrCat("the header is not JSON at byte ", position));
  }

 private:
  enum class State { kStart, kNames, kTensor, kDType, kShape, kOffsets, kMetadata, kEnd };
  bool Fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return false;
  }
  bool Refuse(const char* what) {
    return Fail(absl::StrCat(what, " where the header has no place for it",
                             tensors_.empty() ? "" : ", at tensor ",
                             tensors_.empty() ? "" : Quoted(tensors_.back().name)));
  }

  State state_ = State::kStart;
  bool value_expected_ = false;  // after a key, before its value
  bool in_array_ = false;
  bool has_metadata_ = false;
  std::set<std::string, std::less<>> seen_keys_;  // of the tensor at hand
  std::set<std::string, std::less<>> names_;
  std::vector<uint64_t> offsets_;
  std::vector<TensorInfo> tensors_;
  std::string error_;
};

bool HeaderHandler::number_unsigned(number_unsigned_t value) {
  if (!in_array_) return Refuse("a number");
  if (state_ == State::kOffsets) {
    if (offsets_.size() == 2) return Refuse("a third offset");
    offsets_.push_back(value);
    return true;
  }
  std::vector<int64_t>& shape = tensors_.back().shape;
  if (shape.size() == kMaxDimensions) return Refuse("a ninth dimension");
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return Refuse("a dimension over 2^63");
  }
  shape.push_back(static_cast<int64_t>(value));
  return true;
}

bool HeaderHandler::string(string_t& value) {
  if (state_ == State::kMetadata) return true;
  if (state_ != State::kDType) return Refuse("a string");
  tensors_.back().dtype = value.substr(0, 16);
  state_ = State::kTensor;
  value_expected_ = false;
  return true;
}

bool HeaderHandler::start_object(size_t) {
  if (state_ == State::kStart) {
    state_ = State::kNames;
    return true;
  }
  if (state_ == State::kMetadata && value_expected_) {
    value_expected_ = false;
    return true;
  }
  if (state_ != State::kNames || !value_expected_) return Refuse("an object");
  value_expected_ = false;
  seen_keys_.clear();
  offsets_.clear();
  state_ = State::kTensor;
  return true;
}

bool HeaderHandler::end_object() {
  if (state_ == State::kNames) {
    state_ = State::kEnd;
    return true;
  }
  if (state_ == State::kTensor) {
    if (seen_keys_.size() != 3 || offsets_.size() != 2) return Refuse("an incomplete tensor");
    tensors_.back().begin = offsets_[0];
    tensors_.back().end = offsets_[1];
  }
  state_ = State::kNames;
  return true;
}

bool HeaderHandler::start_array(size_t) {
  if (in_array_ || (state_ != State::kShape && state_ != State::kOffsets)) {
    return Refuse("an array");
  }
  in_array_ = true;
  return true;
}

bool HeaderHandler::end_array() {
  in_array_ = false;
  value_expected_ = false;
  state_ = State::kTensor;
  return true;
}

bool HeaderHandler::key(string_t& name) {
  if (state_ == State::kMetadata) return true;
  value_expected_ = true;
  if (state_ == State::kNames) {
    if (name == kMetadata) {
      if (has_metadata_) return Fail("__metadata__ appears twice");
      has_metadata_ = true;
      state_ = State::kMetadata;
      return true;
    }
    if (name.size() > kMaxNameBytes) return Fail("a tensor's name is longer than 512 bytes");
    if (tensors_.size() == kMaxTensors) return Fail("more than 100000 tensors");
    if (!names_.insert(name).second) return Fail(absl::StrCat("tensor ", Quoted(name), " twice"));
    tensors_.emplace_back();
    tensors_.back().name = name;
    return true;
  }
  if (!seen_keys_.insert(name).second) return Refuse("a repeated key");
  if (name == "dtype") {
    state_ = State::kDType;
  } else if (name == "shape") {
    state_ = State::kShape;
  } else if (name == "data_offsets") {
    state_ = State::kOffsets;
  } else {
    return Refuse("an unknown key");
  }
  return true;
}

// Size in bytes that dtype and shape make, checked.
absl::StatusOr<uint64_t> SizeOf(const TensorInfo& tensor) {
  uint64_t bytes = 0;
  for (const DTypeSize& dtype : kDTypes) {
    if (tensor.dtype == dtype.name) bytes = dtype.bytes;
  }
  if (bytes == 0) {
    return absl::DataLossError(absl::StrCat("tensor ", Quoted(tensor.name), " has dtype ",
                                            Quoted(tensor.dtype), ", which is none of the format"));
  }
  for (int64_t dimension : tensor.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes)) {
      return absl::DataLossError(
          absl::StrCat("the shape of tensor ", Quoted(tensor.name), " overflows"));
    }
  }
  return bytes;
}

// Sorted ranges must lie end to end and fill the file.
absl::Status CheckRanges(const std::vector<TensorInfo>& tensors, uint64_t data_bytes) {
  uint64_t position = 0;
  for (const TensorInfo& tensor : tensors) {
    const absl::StatusOr<uint64_t> size = SizeOf(tensor);
    if (!size.ok()) return size.status();
    if (tensor.end < tensor.begin || tensor.end - tensor.begin != *size) {
      return absl::DataLossError(absl::StrCat("tensor ", Quoted(tensor.name), " has the range ",
                                              tensor.begin, "..", tensor.end, " but needs ", *size,
                                              " bytes"));
    }
    if (tensor.begin != position) {
      return absl::DataLossError(absl::StrCat(
          "tensor ", Quoted(tensor.name), tensor.begin < position ? " overlaps" : " leaves a hole",
          " at byte ", std::min(tensor.begin, position)));
    }
    position = tensor.end;
  }
  if (position != data_bytes) {
    return absl::DataLossError(absl::StrCat("the file has ", data_bytes,
                                            " bytes of data, the header describes ", position));
  }
  return absl::OkStatus();
}

}  // namespace

const TensorInfo* SafetensorsHeader::Find(absl::string_view name) const {
  for (const TensorInfo& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view file) {
  uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    return absl::DataLossError(absl::StrCat("only ", file.size(), " bytes, too few for a header"));
  }
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > file.size() - sizeof(header_bytes)) {
    return absl::DataLossError(absl::StrCat("the header would be ", header_bytes, " bytes of a ",
                                            file.size(), "-byte file; at most ", kMaxHeaderBytes,
                                            " are allowed"));
  }
  const absl::string_view text = file.substr(sizeof(header_bytes), header_bytes);
  if (text.empty() || text.front() != '{') {
    return absl::DataLossError("the header does not start with '{'");
  }
  HeaderHandler handler;
  const bool parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  if (!parsed || !handler.finished()) {
    return absl::DataLossError(handler.error().empty() ? "the header is not JSON"
                                                       : handler.error());
  }
  SafetensorsHeader header;
  header.tensors = handler.TakeTensors();
  header.data_start = sizeof(header_bytes) + header_bytes;
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) {
                     return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
                   });
  const absl::Status ranges = CheckRanges(header.tensors, file.size() - header.data_start);
  if (!ranges.ok()) return ranges;
  return header;
}

}  // namespace nibble::checkpoint
