#include "worker/data/data_source.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/shuffle.h"
#include "worker/data/token_shards.h"

namespace nibble::data {
namespace {

// One shard in the stream of its split.
struct MappedShard {
  MappedFile file;
  int64_t first_token = 0;
  int64_t tokens = 0;
};

absl::StatusOr<MappedFile> MapVerified(const std::string& directory, const ShardFile& shard,
                                       const DatasetManifest& manifest) {
  const std::string path = JoinPath(directory, shard.name);
  const auto damaged = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(path, ": ", what));
  };
  auto file = MappedFile::Open(path);
  if (absl::IsNotFound(file.status())) return damaged("the shard is missing");
  NIBBLE_RETURN_IF_ERROR(file.status());
  const absl::string_view contents = file->contents();
  const auto header_bytes = static_cast<int64_t>(sizeof(ShardHeader));
  if (static_cast<int64_t>(contents.size()) != header_bytes + shard.tokens * manifest.token_bytes) {
    return damaged(absl::StrCat("has ", contents.size(), " bytes; dataset.json says ",
                                header_bytes + shard.tokens * manifest.token_bytes));
  }
  const ShardHeader expected =
      MakeShardHeader(manifest.token_bytes, shard.tokens, manifest.vocab_size);
  if (std::memcmp(contents.data(), &expected, sizeof(expected)) != 0) {
    return damaged("the header is not what dataset.json says");
  }
  if (Sha256Hex(contents) != shard.sha256) {
    return damaged("the SHA-256 is not what dataset.json says");
  }
  return file;
}

class ShardedDataSource : public DataSource {
 public:
  ShardedDataSource(const DatasetManifest& manifest, const SplitManifest& split,
                    int64_t sequence_length, std::vector<MappedShard> shards)
      : vocab_size_(manifest.vocab_size),
        token_bytes_(manifest.token_bytes),
        sequence_length_(sequence_length),
        sequences_((split.tokens - 1) / sequence_length),
        bytes_per_token_(static_cast<double>(split.bytes) / static_cast<double>(split.tokens)),
        shards_(std::move(shards)) {}

  int64_t vocab_size() const override { return vocab_size_; }
  int64_t sequence_length() const override { return sequence_length_; }
  int64_t sequences() const override { return sequences_; }
  double bytes_per_token() const override { return bytes_per_token_; }

  absl::Status ReadShuffled(uint64_t seed, int64_t position, int32_t* inputs,
                            int32_t* targets) const override {
    NIBBLE_CHECK(position >= 0);
    const ShuffleKey key = {.seed = seed, .epoch = static_cast<uint64_t>(position / sequences_)};
    return ReadInOrder(PermutedIndex(position % sequences_, sequences_, key), inputs, targets);
  }

  absl::Status ReadInOrder(int64_t index, int32_t* inputs, int32_t* targets) const override {
    NIBBLE_CHECK(index >= 0 && index < sequences_);
    const int64_t first = index * sequence_length_;
    NIBBLE_RETURN_IF_ERROR(CopyTokens(first, sequence_length_, inputs));
    std::copy(inputs + 1, inputs + sequence_length_, targets);
    return CopyTokens(first + sequence_length_, 1, targets + sequence_length_ - 1);
  }

 private:
  // Tokens [first, first + count) of the stream, across shards.
  absl::Status CopyTokens(int64_t first, int64_t count, int32_t* out) const {
    auto shard = std::upper_bound(shards_.begin(), shards_.end(), first,
                                  [](int64_t token, const MappedShard& candidate) {
                                    return token < candidate.first_token;
                                  }) -
                 1;
    while (count > 0) {
      const int64_t offset = first - shard->first_token;
      const int64_t n = std::min(count, shard->tokens - offset);
      const char* tokens = shard->file.contents().data() + sizeof(ShardHeader);
      const bool in_range = token_bytes_ == 2 ? Widen<uint16_t>(tokens + offset * 2, n, out)
                                              : Widen<uint32_t>(tokens + offset * 4, n, out);
      if (!in_range) {
        return absl::OutOfRangeError(absl::StrCat("a token among ", first, " to ", first + n - 1,
                                                  " is not below vocab_size ", vocab_size_));
      }
      first += n;
      out += n;
      count -= n;
      ++shard;
    }
    return absl::OkStatus();
  }

  template <typename T>
  bool Widen(const char* tokens, int64_t count, int32_t* out) const {
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
      T token;
      std::memcpy(&token, tokens + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
      largest = std::max<uint32_t>(largest, token);
      out[i] = static_cast<int32_t>(token);
    }
    return largest < static_cast<uint32_t>(vocab_size_);
  }

  const int64_t vocab_size_;
  const int token_bytes_;
  const int64_t sequence_length_;
  const int64_t sequences_;
  const double bytes_per_token_;
  const std::vector<MappedShard> shards_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DataSource>> DataSource::Open(const std::string& directory,
                                                             Split split, int64_t sequence_length) {
  NIBBLE_CHECK(sequence_length >= 1);
  NIBBLE_ASSIGN_OR_RETURN(const DatasetManifest manifest, ReadManifest(directory));
  const bool train = split == Split::kTrain;
  const SplitManifest& wanted = train ? manifest.train : manifest.validation;
  if (wanted.documents == 0) {
    return absl::NotFoundError(
        absl::StrCat(directory, " has no ", train ? "train" : "validation", " split"));
  }
  if ((wanted.tokens - 1) / sequence_length < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, ": the ", train ? "train" : "validation", " split has ", wanted.tokens,
        " tokens; one sequence of length ", sequence_length, " needs ", sequence_length + 1));
  }
  std::vector<MappedShard> shards;
  int64_t first_token = 0;
  for (const ShardFile& shard : wanted.files) {
    NIBBLE_ASSIGN_OR_RETURN(MappedFile file, MapVerified(directory, shard, manifest));
    shards.push_back({std::move(file), first_token, shard.tokens});
    first_token += shard.tokens;
  }
  return std::unique_ptr<DataSource>(
      std::make_unique<ShardedDataSource>(manifest, wanted, sequence_length, std::move(shards)));
}

}  // namespace nibble::data
