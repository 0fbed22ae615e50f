#include "worker/data/sequence_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace nibble::data {
namespace {

constexpr size_t kMaxDocuments = size_t{1} << 27;

// Where the documents of a stream start, from its list or its separators.
absl::StatusOr<std::vector<int64_t>> DocumentStarts(const TokenStream& stream) {
  std::vector<int64_t> starts = stream.document_starts();
  if (starts.empty()) {
    constexpr int64_t kChunk = 1 << 16;
    std::vector<int32_t> chunk(static_cast<size_t>(std::min(kChunk, stream.tokens())));
    for (int64_t first = 0; first < stream.tokens(); first += kChunk) {
      const int64_t count = std::min(kChunk, stream.tokens() - first);
      NIBBLE_RETURN_IF_ERROR(stream.Read(first, count, chunk.data()));
      for (int64_t i = 0; i < count; ++i) {
        if (chunk[static_cast<size_t>(i)] == stream.separator()) starts.push_back(first + i + 1);
      }
      if (starts.size() > kMaxDocuments) break;
    }
  }
  if (starts.size() > kMaxDocuments) {
    return absl::ResourceExhaustedError(
        absl::StrCat("over ", kMaxDocuments, " documents; join them or mask their boundaries"));
  }
  if (starts.empty() || starts.front() != 0) starts.insert(starts.begin(), 0);
  if (starts.back() != stream.tokens()) starts.push_back(stream.tokens());
  return starts;
}

}  // namespace

absl::StatusOr<SequenceReader> SequenceReader::Make(TokenStream stream, const std::string& name,
                                                    int64_t sequence_length, DocumentMode mode) {
  NIBBLE_CHECK(sequence_length >= 1);
  SequenceReader reader(std::move(stream), sequence_length, mode);
  const int64_t tokens = reader.stream_.tokens();
  if (mode != DocumentMode::kJoin && reader.stream_.separator() < 0 &&
      reader.stream_.document_starts().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name,
                     ": does not say where documents end; give its separator, or join "
                     "documents"));
  }
  if (mode == DocumentMode::kSeparate) {
    NIBBLE_RETURN_IF_ERROR(reader.FindDocuments(name));
  } else {
    reader.sequences_ = (tokens - 1) / sequence_length;
  }
  if (reader.sequences_ >= 1) return reader;
  return absl::InvalidArgumentError(absl::StrCat(name, " has ", tokens,
                                                 " tokens; one sequence of length ",
                                                 sequence_length, " needs ", sequence_length + 1));
}

absl::Status SequenceReader::FindDocuments(const std::string& name) {
  auto starts = DocumentStarts(stream_);
  if (!starts.ok()) {
    return absl::Status(starts.status().code(),
                        absl::StrCat(name, ": ", starts.status().message()));
  }
  for (size_t i = 0; i + 1 < starts->size(); ++i) {
    const int64_t tokens = (*starts)[i + 1] - (*starts)[i];
    if (tokens < 2) continue;  // nothing to predict
    documents_.push_back({sequences_, (*starts)[i], tokens});
    sequences_ += (tokens - 2) / length_ + 1;
  }
  return absl::OkStatus();
}

absl::Status SequenceReader::Read(int64_t index, int32_t* inputs, int32_t* targets) const {
  NIBBLE_CHECK(index >= 0 && index < sequences_);
  return mode_ == DocumentMode::kSeparate ? ReadSeparate(index, inputs, targets)
                                          : ReadJoined(index, inputs, targets);
}

absl::Status SequenceReader::ReadJoined(int64_t index, int32_t* inputs, int32_t* targets) const {
  const int64_t first = index * length_;
  NIBBLE_RETURN_IF_ERROR(stream_.Read(first, length_, inputs));
  std::copy(inputs + 1, inputs + length_, targets);
  NIBBLE_RETURN_IF_ERROR(stream_.Read(first + length_, 1, targets + length_ - 1));
  if (mode_ == DocumentMode::kMask) MaskBoundaries(first, inputs, targets);
  return absl::OkStatus();
}

// Target i is token first + i + 1 of the stream.
void SequenceReader::MaskBoundaries(int64_t first, const int32_t* inputs, int32_t* targets) const {
  const std::vector<int64_t>& starts = stream_.document_starts();
  if (starts.empty()) {
    for (int64_t i = 0; i < length_; ++i) {
      if (inputs[i] == stream_.separator()) targets[i] = -1;
    }
    return;
  }
  for (auto start = std::upper_bound(starts.begin(), starts.end(), first);
       start != starts.end() && *start <= first + length_; ++start) {
    targets[*start - first - 1] = -1;
  }
}

absl::Status SequenceReader::ReadSeparate(int64_t index, int32_t* inputs, int32_t* targets) const {
  const auto document = std::upper_bound(documents_.begin(), documents_.end(), index,
                                         [](int64_t sequence, const Document& other) {
                                           return sequence < other.first_sequence;
                                         }) -
                        1;
  const int64_t offset = (index - document->first_sequence) * length_;
  const int64_t first = document->first_token + offset;
  // Inputs that have a target.
  const int64_t count = std::min(length_, document->tokens - offset - 1);
  NIBBLE_RETURN_IF_ERROR(stream_.Read(first, count, inputs));
  NIBBLE_RETURN_IF_ERROR(stream_.Read(first + 1, count, targets));
  // What follows is seen by nothing that has a target.
  std::fill(inputs + count, inputs + length_, 0);
  std::fill(targets + count, targets + length_, -1);
  return absl::OkStatus();
}

}  // namespace nibble::data
