#include "worker/evaluation/text_file.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/data/input_stream.h"
#include "worker/evaluation/task.h"

namespace nibble::evaluation {
namespace {

// POSIX ustar: blocks of 512 bytes, a header before every file.
constexpr size_t kTarBlock = 512;
constexpr size_t kTarNameAt = 0, kTarNameBytes = 100;
constexpr size_t kTarSizeAt = 124, kTarSizeBytes = 12;
constexpr size_t kTarSumAt = 148, kTarSumBytes = 8;
constexpr size_t kTarTypeAt = 156;
constexpr size_t kTarMagicAt = 257;

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<data::InputStream> stream,
                          data::InputStream::Open(path));
  std::string text;
  std::string buffer(256 * 1024, '\0');
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const size_t bytes, stream->Read(buffer.data(), buffer.size()));
    if (bytes == 0) return text;
    if (static_cast<int64_t>(text.size() + bytes) > kMaxFileBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, " has more than ", kMaxFileBytes, " bytes of text"));
    }
    text.append(buffer, 0, bytes);
  }
}

bool IsTar(absl::string_view text) {
  return text.size() >= kTarBlock && text.substr(kTarMagicAt, 5) == "ustar";
}

// An octal number up to a NUL, space or the field's end; false where it is none.
bool Octal(absl::string_view field, uint64_t* value) {
  *value = 0;
  size_t digits = 0;
  for (const char c : field) {
    if (c == '\0' || (c == ' ' && digits > 0)) break;
    if (c == ' ') continue;
    if (c < '0' || c > '7') return false;
    *value = *value * 8 + static_cast<uint64_t>(c - '0');
    ++digits;
  }
  return digits > 0;
}

// The sum of the header's bytes, its own field read as spaces.
bool SumIsRight(absl::string_view header) {
  uint64_t stated = 0;
  if (!Octal(header.substr(kTarSumAt, kTarSumBytes), &stated)) return false;
  uint64_t sum = 0;
  for (size_t i = 0; i < kTarBlock; ++i) {
    const bool own = i >= kTarSumAt && i < kTarSumAt + kTarSumBytes;
    sum += own ? ' ' : static_cast<unsigned char>(header[i]);
  }
  return sum == stated;
}

absl::StatusOr<std::vector<TextMember>> Unpack(const std::string& path, absl::string_view tar) {
  std::vector<TextMember> members;
  size_t at = 0;
  while (at + kTarBlock <= tar.size() && tar[at] != '\0') {
    const absl::string_view header = tar.substr(at, kTarBlock);
    uint64_t size = 0;
    if (!SumIsRight(header) || !Octal(header.substr(kTarSizeAt, kTarSizeBytes), &size)) {
      return absl::DataLossError(absl::StrCat(path, ": damaged tar header at byte ", at));
    }
    at += kTarBlock;
    if (size > tar.size() - at) {
      return absl::DataLossError(absl::StrCat(path, ": the tar archive ends too early"));
    }
    const absl::string_view field = header.substr(kTarNameAt, kTarNameBytes);
    const std::string name(field.substr(0, std::min(field.find('\0'), field.size())));
    const char type = header[kTarTypeAt];
    if (type == '0' || type == '\0') {
      members.push_back({absl::StrCat(path, ":", EscapeControlCharacters(name)),
                         std::string(tar.substr(at, size))});
    }
    // A last member may go without its padding.
    at = std::min(at + (size + kTarBlock - 1) / kTarBlock * kTarBlock, tar.size());
  }
  return members;
}

}  // namespace

absl::StatusOr<std::vector<TextMember>> ReadTextFile(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(std::string text, ReadWhole(path));
  if (IsTar(text)) return Unpack(path, text);
  return std::vector<TextMember>{{path, std::move(text)}};
}

}  // namespace nibble::evaluation
