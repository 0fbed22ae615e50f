#include "server/rpc/wire_check.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/wire_format_lite.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/utf8.h"

namespace nibble::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;

constexpr int kMaxDepth = 16;
constexpr size_t kMaxFindings = 32;

bool ReadVarint(absl::string_view* bytes, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 70 && !bytes->empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes->front());
    bytes->remove_prefix(1);
    if (shift < 64) *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

// What is wrong with the contents of a string field; null where nothing is.
const char* StringFault(absl::string_view text) {
  while (!text.empty()) {
    if (text.front() == '\0') return "holds a NUL character; allowed: text without NUL";
    const size_t length = Utf8SequenceLength(text);
    if (length == 0) return "is not valid UTF-8; allowed: UTF-8 text";
    text.remove_prefix(length);
  }
  return nullptr;
}

bool IsScalar(WireFormatLite::WireType type) {
  return type != WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
}

class Walker {
 public:
  bool Message(absl::string_view bytes, const Descriptor* message, const std::string& path,
               int depth);
  absl::Status Result() const;

 private:
  // False ends the walk: what follows cannot be understood, or enough was found.
  bool Find(std::string path, std::string description);
  bool Count(const std::string& path);
  // Reads one element of wire type `type` off `bytes`, into *payload or *number.
  bool ReadElement(absl::string_view* bytes, WireFormatLite::WireType type, const std::string& path,
                   absl::string_view* payload, uint64_t* number);
  bool Field(const FieldDescriptor* field, WireFormatLite::WireType type, absl::string_view payload,
             uint64_t number, const std::string& path, int depth);
  bool Packed(const FieldDescriptor* field, absl::string_view payload, const std::string& path);
  bool MapEntry(const FieldDescriptor* field, absl::string_view payload, const std::string& path,
                int depth);
  bool Scalar(const FieldDescriptor* field, uint64_t number, const std::string& path);

  std::vector<spec::FieldError> findings_;
  std::string too_large_at_;
  bool too_large_ = false;
  int elements_ = 0;
};

bool Walker::Find(std::string path, std::string description) {
  findings_.push_back({std::move(path), std::move(description)});
  return findings_.size() < kMaxFindings;
}

bool Walker::Count(const std::string& path) {
  if (++elements_ <= kMaxRequestElements) return true;
  too_large_ = true;
  too_large_at_ = path;
  return false;
}

bool Walker::ReadElement(absl::string_view* bytes, WireFormatLite::WireType type,
                         const std::string& path, absl::string_view* payload, uint64_t* number) {
  size_t size = 0;
  switch (type) {
    case WireFormatLite::WIRETYPE_VARINT:
      if (ReadVarint(bytes, number)) return true;
      Find(path, "is a truncated or over-long integer");
      return false;
    case WireFormatLite::WIRETYPE_FIXED64:
      size = 8;
      break;
    case WireFormatLite::WIRETYPE_FIXED32:
      size = 4;
      break;
    case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
      if (!ReadVarint(bytes, number) || *number > bytes->size()) {
        Find(path, "is truncated: its length runs past the end of the message");
        return false;
      }
      size = *number;
      break;
    default:
      Find(path, "uses protobuf groups, which this API does not have");
      return false;
  }
  if (bytes->size() < size) {
    Find(path, "is truncated");
    return false;
  }
  *payload = bytes->substr(0, size);
  bytes->remove_prefix(size);
  *number = 0;
  if (IsScalar(type)) std::memcpy(number, payload->data(), size);  // little-endian, as the wire is
  return true;
}

bool Walker::Scalar(const FieldDescriptor* field, uint64_t number, const std::string& path) {
  switch (field->type()) {
    case FieldDescriptor::TYPE_ENUM: {
      // The wire holds an int32 sign-extended to 64 bits; protobuf keeps the low half.
      const auto value = static_cast<int32_t>(number);
      if (field->enum_type()->FindValueByNumber(value) != nullptr) return true;
      return Find(path, absl::StrCat("is ", value, ", which ", field->enum_type()->name(),
                                     " does not have"));
    }
    case FieldDescriptor::TYPE_DOUBLE: {
      double value;
      std::memcpy(&value, &number, sizeof(value));
      if (std::isfinite(value)) return true;
      return Find(path, absl::StrCat("is ", value, "; allowed: finite numbers"));
    }
    case FieldDescriptor::TYPE_FLOAT: {
      float value;
      std::memcpy(&value, &number, sizeof(value));
      if (std::isfinite(value)) return true;
      return Find(path, absl::StrCat("is ", value, "; allowed: finite numbers"));
    }
    default:
      return true;
  }
}

bool Walker::Packed(const FieldDescriptor* field, absl::string_view payload,
                    const std::string& path) {
  const auto type =
      WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field->type()));
  const std::string list = path.substr(0, path.rfind('['));
  absl::string_view element;
  uint64_t number = 0;
  for (int i = 0; !payload.empty(); ++i) {
    const std::string element_path = absl::StrCat(list, "[", i, "]");
    if (!Count(path) || !ReadElement(&payload, type, element_path, &element, &number)) return false;
    if (!Scalar(field, number, element_path)) return false;
  }
  return true;
}

bool Walker::MapEntry(const FieldDescriptor* field, absl::string_view payload,
                      const std::string& path, int depth) {
  const Descriptor* entry = field->message_type();
  // For the path: the key, where the entry starts with one, as serialisers write it.
  std::string key;
  absl::string_view rest = payload;
  uint64_t tag = 0;
  uint64_t length = 0;
  if (ReadVarint(&rest, &tag) && tag == 0x0a && ReadVarint(&rest, &length) &&
      length <= rest.size()) {
    key = EscapeControlCharacters(rest.substr(0, std::min<uint64_t>(length, 63)));
    if (StringFault(key) != nullptr) key = "?";
  }
  return Message(payload, entry, absl::StrCat(path, "[\"", key, "\"]"), depth);
}

bool Walker::Field(const FieldDescriptor* field, WireFormatLite::WireType type,
                   absl::string_view payload, uint64_t number, const std::string& path, int depth) {
  const auto declared =
      WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field->type()));
  if (type != declared) {
    if (field->is_packable() && !IsScalar(type)) return Packed(field, payload, path);
    return Find(path, absl::StrCat("has wire type ", static_cast<int>(type), ", not ",
                                   static_cast<int>(declared)));
  }
  if (!Count(path)) return false;
  if (IsScalar(type)) return Scalar(field, number, path);
  if (field->is_map()) return MapEntry(field, payload, path, depth + 1);
  if (field->message_type() != nullptr) {
    return Message(payload, field->message_type(), path, depth + 1);
  }
  if (field->type() != FieldDescriptor::TYPE_STRING) return true;
  const char* fault = StringFault(payload);
  return fault == nullptr || Find(path, fault);
}

bool Walker::Message(absl::string_view bytes, const Descriptor* message, const std::string& path,
                     int depth) {
  if (depth > kMaxDepth) {
    Find(path, absl::StrCat("is nested deeper than ", kMaxDepth));
    return false;
  }
  const bool is_map_entry = message->options().map_entry();
  std::map<int, int> indices;  // of the elements of repeated fields
  while (!bytes.empty()) {
    uint64_t tag = 0;
    if (!ReadVarint(&bytes, &tag) || tag > UINT32_MAX || (tag >> 3) == 0) {
      Find(path, "is not a protobuf message: bad field tag");
      return false;
    }
    const auto type = static_cast<WireFormatLite::WireType>(tag & 7);
    const FieldDescriptor* field = message->FindFieldByNumber(static_cast<int>(tag >> 3));
    std::string field_path = path;
    // A map entry's value has the path of the entry itself.
    if (!is_map_entry) {
      absl::StrAppend(&field_path, path.empty() ? "" : ".",
                      field == nullptr ? absl::StrCat(tag >> 3) : field->name());
      if (field != nullptr && field->is_repeated() && !field->is_map()) {
        absl::StrAppend(&field_path, "[", indices[field->number()]++, "]");
      }
    }
    absl::string_view payload;
    uint64_t number = 0;
    if (!ReadElement(&bytes, type, field_path, &payload, &number)) return false;
    if (field == nullptr) {
      if (!Find(field_path, absl::StrCat("is not a field of ", message->name()))) return false;
    } else if (!Field(field, type, payload, number, field_path, depth)) {
      return false;
    }
  }
  return true;
}

absl::Status Walker::Result() const {
  if (!findings_.empty()) return InvalidFields(findings_);
  if (too_large_) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat("the request has more than ",
                                                                kMaxRequestElements, " elements")),
                      kMessageTooLarge, {{"field", too_large_at_}});
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckWire(absl::string_view bytes, const Descriptor* message) {
  Walker walker;
  walker.Message(bytes, message, "", 0);
  return walker.Result();
}

}  // namespace nibble::rpc
