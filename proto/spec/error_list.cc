#include "proto/spec/error_list.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/log.h"

namespace nibble::spec {
namespace {

constexpr size_t kMaxFieldBytes = 96;
constexpr size_t kMaxDescriptionBytes = 240;
constexpr size_t kMaxMessageBytes = 2048;
constexpr size_t kMaxQuotedBytes = 48;

// Cuts between UTF-8 characters.
std::string Cut(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return absl::StrCat(text.substr(0, end), "...");
}

std::string Normalised(absl::string_view name) {
  return absl::AsciiStrToLower(absl::StrReplaceAll(name, {{"_", ""}, {"-", ""}}));
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

void ErrorList::Add(absl::string_view field, absl::string_view description) {
  ++total_;
  if (errors_.size() >= kMaxErrors) return;
  errors_.push_back({Cut(EscapeControlCharacters(Cut(field, kMaxFieldBytes)), kMaxFieldBytes),
                     Cut(EscapeControlCharacters(description), kMaxDescriptionBytes)});
}

absl::Status ErrorList::ToStatus() const {
  if (ok()) return absl::OkStatus();
  std::string message;
  int shown = 0;
  for (const FieldError& error : errors_) {
    if (message.size() > kMaxMessageBytes) break;
    absl::StrAppend(&message, shown == 0 ? "" : "; ", error.field, error.field.empty() ? "" : ": ",
                    error.description);
    ++shown;
  }
  if (shown < total_) absl::StrAppend(&message, "; and ", total_ - shown, " more");
  return absl::InvalidArgumentError(message);
}

std::string QuoteForError(absl::string_view text) {
  return absl::StrCat("\"", EscapeControlCharacters(Cut(text, kMaxQuotedBytes)), "\"");
}

std::string OneOf(const std::vector<std::string>& names) {
  if (names.empty()) return "nothing";
  if (names.size() == 1) return names[0];
  return absl::StrCat(absl::StrJoin(names.begin(), names.end() - 1, ", "), " or ", names.back());
}

std::string NearestName(absl::string_view given, const std::vector<std::string>& names) {
  if (given.empty() || given.size() > 64) return "";
  const std::string wanted = Normalised(given);
  std::string best;
  size_t best_distance = std::max<size_t>(2, wanted.size() / 3) + 1;
  for (const std::string& name : names) {
    const size_t distance = EditDistance(wanted, Normalised(name));
    // A name replaced completely is no misspelling.
    if (distance < best_distance && distance < std::min(wanted.size(), name.size())) {
      best = name;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace nibble::spec
