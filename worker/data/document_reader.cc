#include "worker/data/document_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace nibble::data {
namespace {

using Json = nlohmann::json;

constexpr size_t kChunkBytes = 256 * 1024;
// At the start of a file; no text.
constexpr absl::string_view kByteOrderMark = "\xef\xbb\xbf";
// A line's JSON may be longer than its text: six bytes of escape a character at most, and other
// fields beside it.
constexpr int64_t kMaxLineBytes = 2 * kMaxDocumentTextBytes;

// Takes one top-level string out of a line and keeps nothing else.
class FieldSax : public nlohmann::json_sax<Json> {
 public:
  FieldSax(const std::string& field, std::string* value) : field_(field), value_(value) {}

  bool null() override { return Scalar(); }
  bool boolean(bool) override { return Scalar(); }
  bool number_integer(number_integer_t) override { return Scalar(); }
  bool number_unsigned(number_unsigned_t) override { return Scalar(); }
  bool number_float(number_float_t, const string_t&) override { return Scalar(); }
  bool binary(binary_t&) override { return false; }
  bool string(string_t& text) override {
    if (wanted_) {
      *value_ = std::move(text);
      ++found_;
      wanted_ = false;
    }
    return depth_ > 0;
  }
  bool start_object(std::size_t) override { return Open(); }
  bool start_array(std::size_t) override { return depth_ > 0 && Open(); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& text) override {
    wanted_ = depth_ == 1 && text == field_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    error_ = absl::StrCat("not JSON at byte ", position);
    return false;
  }

  int found() const { return found_; }
  const std::string& error() const { return error_; }

 private:
  // The wanted field may hold a string only.
  bool Scalar() { return depth_ > 0 && !wanted_; }
  bool Open() {
    ++depth_;
    return !wanted_;
  }
  bool Close() {
    --depth_;
    return true;
  }

  const std::string& field_;
  std::string* value_;
  int64_t depth_ = 0;
  bool wanted_ = false;
  int found_ = 0;
  std::string error_;
};

// Empty where the line is fine.
std::string ExtractField(absl::string_view line, const std::string& field, std::string* value) {
  FieldSax sax(field, value);
  bool parsed = false;
  try {
    parsed = Json::sax_parse(line.begin(), line.end(), &sax);
  } catch (const std::exception& e) {
    return e.what();
  }
  if (!sax.error().empty()) return sax.error();
  if (!parsed || sax.found() != 1) {
    return absl::StrCat("required: an object with one string field \"",
                        EscapeControlCharacters(field), "\"");
  }
  return "";
}

}  // namespace

DocumentFormat MakeDocumentFormat(InputFormat format, absl::string_view path,
                                  const std::string& json_field, const std::string& separator) {
  bool jsonl = format == InputFormat::kJsonl;
  if (format == InputFormat::kAuto) {
    for (absl::string_view suffix : {".gz", ".zst"}) absl::ConsumeSuffix(&path, suffix);
    jsonl = absl::EndsWith(path, ".jsonl") || absl::EndsWith(path, ".ndjson");
  }
  return {.jsonl = jsonl, .json_field = json_field, .separator = separator};
}

DocumentReader::DocumentReader(std::unique_ptr<InputStream> stream, std::string path,
                               DocumentFormat format)
    : stream_(std::move(stream)),
      path_(std::move(path)),
      format_(std::move(format)),
      separator_(format_.jsonl ? "\n" : format_.separator) {}

absl::StatusOr<std::unique_ptr<DocumentReader>> DocumentReader::Open(const std::string& path,
                                                                     const DocumentFormat& format) {
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<InputStream> stream, InputStream::Open(path));
  return std::unique_ptr<DocumentReader>(new DocumentReader(std::move(stream), path, format));
}

absl::StatusOr<bool> DocumentReader::Next(std::string* document) {
  std::string line;
  while (true) {
    NIBBLE_ASSIGN_OR_RETURN(const bool more, NextPart(format_.jsonl ? &line : document));
    if (!more) return false;
    ++parts_;
    if (!format_.jsonl) break;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const std::string error = ExtractField(line, format_.json_field, document);
    if (error.empty()) break;
    return absl::InvalidArgumentError(absl::StrCat(path_, ":", parts_, ": ", error));
  }
  if (static_cast<int64_t>(document->size()) <= kMaxDocumentTextBytes) return true;
  return absl::ResourceExhaustedError(
      absl::StrCat(path_, ": document ", parts_, " has over ", kMaxDocumentTextBytes, " bytes"));
}

// The text up to the next separator, or to the end of the file.
absl::StatusOr<bool> DocumentReader::NextPart(std::string* part) {
  const int64_t limit = format_.jsonl ? kMaxLineBytes : kMaxDocumentTextBytes;
  size_t searched = begin_;
  while (true) {
    const size_t found =
        separator_.empty() ? std::string::npos : pending_.find(separator_, searched);
    if (found != std::string::npos) {
      part->assign(pending_, begin_, found - begin_);
      begin_ = found + separator_.size();
      return true;
    }
    // A separator may straddle this chunk and the next.
    searched = std::max(begin_, pending_.size() - std::min(pending_.size(), separator_.size()));
    if (static_cast<int64_t>(pending_.size() - begin_) > limit) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path_, ": document ", parts_ + 1, " has over ", limit,
                       " bytes; split it, for text with a document separator"));
    }
    const size_t consumed = begin_;
    NIBBLE_ASSIGN_OR_RETURN(const bool more, ReadMore());
    if (begin_ == 0) searched -= consumed;
    if (more) continue;
    if (begin_ == pending_.size()) return false;
    part->assign(pending_, begin_, std::string::npos);
    begin_ = pending_.size();
    return true;
  }
}

// Appends a chunk to pending_, after dropping what was handed out (begin_ becomes 0).
absl::StatusOr<bool> DocumentReader::ReadMore() {
  if (at_end_) return false;
  pending_.erase(0, begin_);
  begin_ = 0;
  do {
    const size_t before = pending_.size();
    pending_.resize(before + kChunkBytes);
    const auto read = stream_->Read(pending_.data() + before, kChunkBytes);
    pending_.resize(before + (read.ok() ? *read : 0));
    NIBBLE_RETURN_IF_ERROR(read.status());
    at_end_ = *read == 0;
  } while (!started_ && !at_end_ && pending_.size() < kByteOrderMark.size());
  if (!started_ && absl::StartsWith(pending_, kByteOrderMark)) {
    pending_.erase(0, kByteOrderMark.size());
  }
  started_ = true;
  return !at_end_;
}

}  // namespace nibble::data
