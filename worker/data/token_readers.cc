// Opens the files that a TokenStream is made of. Everything in a file is checked against the file's
// own size before it is used.
#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "worker/data/token_shards.h"
#include "worker/data/token_stream.h"

namespace nibble::data {
namespace {

constexpr size_t kMaxFiles = 1 << 16;
// 64 sources, two splits each, are 512 descriptors.
constexpr size_t kMaxFilesHeld = 4;
constexpr int64_t kLlmcHeaderBytes = 1024;
constexpr absl::string_view kMegatronMagic("MMIDIDX\0\0", 9);
constexpr size_t kMegatronHeaderBytes = 34;

template <typename T>
T Load(absl::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

bool IsDirectory(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// The files that a path names: itself, a pattern's matches, or those of a directory.
absl::StatusOr<std::vector<std::string>> FilesOf(const std::string& path, Split split) {
  std::string directory = path;
  std::string pattern = split == Split::kTrain ? "*train*.bin" : "*val*.bin";
  if (!IsDirectory(path)) {
    const size_t slash = path.rfind('/');
    const size_t name = slash == std::string::npos ? 0 : slash + 1;
    if (path.find_first_of("*?[", name) == std::string::npos) return std::vector{path};
    directory = name == 0 ? "." : path.substr(0, name);
    pattern = path.substr(name);
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(directory));
  std::vector<std::string> files;
  for (const std::string& name : names) {
    if (fnmatch(pattern.c_str(), name.c_str(), FNM_PERIOD) != 0) continue;
    if (files.size() == kMaxFiles) {
      return absl::ResourceExhaustedError(absl::StrCat(path, ": over ", kMaxFiles, " files"));
    }
    files.push_back(JoinPath(directory, name));
  }
  if (files.empty()) {
    return absl::NotFoundError(absl::StrCat(directory, ": holds no file ", pattern));
  }
  return files;
}

// Megatron's pair is named by either file or by what their names have in common.
std::string MegatronPrefix(absl::string_view path) {
  if (!absl::ConsumeSuffix(&path, ".idx")) absl::ConsumeSuffix(&path, ".bin");
  return std::string(path);
}

const char* NameOf(TokenFormat format) {
  constexpr std::array<const char*, 6> kNames = {"auto",     "nibble",  "llmc",
                                                 "megatron", "raw_u16", "raw_u32"};
  return kNames[static_cast<size_t>(format)];
}

}  // namespace

// Fills in a TokenStream, file by file.
class TokenStreamBuilder {
 public:
  TokenStreamBuilder(const SourceConfig& source, Split split, int64_t limit)
      : source_(source), split_(split) {
    stream_.limit_ = limit;
  }

  absl::StatusOr<TokenStream> Build() {
    const bool train = split_ == Split::kTrain;
    const bool own_path = train || source_.validation_path.empty();
    const std::string& path = own_path ? source_.path : source_.validation_path;
    if (source_.format == TokenFormat::kNibble ||
        (source_.format == TokenFormat::kAuto && FileExists(JoinPath(path, kDatasetFileName)))) {
      // The held-out split of another dataset, where there is one.
      NIBBLE_RETURN_IF_ERROR(AddNibble(path));
      return std::move(stream_);
    }
    if (!train && own_path && !IsDirectory(path)) {
      return absl::NotFoundError(absl::StrCat(path, " has no validation split"));
    }
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesOf(path, split_));
    NIBBLE_RETURN_IF_ERROR(AddForeign(files));
    NIBBLE_RETURN_IF_ERROR(CheckDigest(path));
    if (stream_.tokens_ == 0) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": holds no token"));
    }
    stream_.separator_ = source_.separator;
    NIBBLE_RETURN_IF_ERROR(CheckRange(path));
    return std::move(stream_);
  }

 private:
  // Descriptors are scarce: of a source with many files only the first few hold theirs.
  bool MayKeepOpen() const { return stream_.files_.size() < kMaxFilesHeld; }

  absl::Status Open(const std::string& path) {
    NIBBLE_ASSIGN_OR_RETURN(TokenFile file, TokenFile::Open(path, MayKeepOpen()));
    stream_.files_.push_back(std::move(file));
    return absl::OkStatus();
  }
  const TokenFile& newest() const { return stream_.files_.back(); }

  // Of the newest file.
  void AddRun(int64_t offset, int64_t tokens) {
    if (tokens == 0) return;
    const size_t file = stream_.files_.size() - 1;
    TokenRun* last = stream_.runs_.empty() ? nullptr : &stream_.runs_.back();
    if (last != nullptr && last->file == file &&
        last->offset + last->tokens * BytesOf(stream_.type_) == offset) {
      last->tokens += tokens;
    } else {
      stream_.runs_.push_back({file, offset, stream_.tokens_, tokens});
    }
    stream_.tokens_ += tokens;
  }

  absl::Status AddNibble(const std::string& directory) {
    NIBBLE_ASSIGN_OR_RETURN(const DatasetManifest manifest, ReadManifest(directory));
    const bool train = split_ == Split::kTrain;
    const SplitManifest& split = train ? manifest.train : manifest.validation;
    if (split.documents == 0) {
      return absl::NotFoundError(
          absl::StrCat(directory, " has no ", train ? "train" : "validation", " split"));
    }
    stream_.format_ = NameOf(TokenFormat::kNibble);
    stream_.type_ = manifest.token_bytes == 2 ? TokenType::kU16 : TokenType::kU32;
    stream_.limit_ = manifest.vocab_size;
    stream_.vocab_size_ = manifest.vocab_size;
    stream_.separator_ = manifest.separator;
    stream_.bytes_per_token_ = static_cast<double>(split.bytes) / static_cast<double>(split.tokens);
    for (const ShardFile& shard : split.files) {
      NIBBLE_ASSIGN_OR_RETURN(TokenFile file,
                              OpenVerifiedShard(directory, shard, manifest, MayKeepOpen()));
      stream_.files_.push_back(std::move(file));
      AddRun(sizeof(ShardHeader), shard.tokens);
    }
    return absl::OkStatus();
  }

  absl::Status AddForeign(const std::vector<std::string>& files) {
    TokenFormat format = source_.format;
    if (format == TokenFormat::kAuto) {
      NIBBLE_ASSIGN_OR_RETURN(format, Detect(files[0]));
    }
    stream_.format_ = NameOf(format);
    bool first = true;
    for (const std::string& path : files) {
      absl::Status status;
      switch (format) {
        case TokenFormat::kLlmc:
          status = AddLlmc(path, first);
          break;
        case TokenFormat::kMegatron:
          status = AddMegatron(MegatronPrefix(path), first);
          break;
        default:
          status = AddRaw(path, format == TokenFormat::kRawU16 ? TokenType::kU16 : TokenType::kU32);
      }
      if (!status.ok()) return status;
      first = false;
    }
    return absl::OkStatus();
  }

  static absl::StatusOr<TokenFormat> Detect(const std::string& path) {
    if (FileExists(MegatronPrefix(path) + ".idx")) return TokenFormat::kMegatron;
    NIBBLE_ASSIGN_OR_RETURN(const TokenFile file, TokenFile::Open(path, /*keep_open=*/true));
    if (file.size() >= 4) {
      int32_t magic = 0;
      NIBBLE_RETURN_IF_ERROR(file.ReadAt(0, sizeof(magic), reinterpret_cast<char*>(&magic)));
      if (magic == 20240520 || magic == 20240801) return TokenFormat::kLlmc;
    }
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     ": is no nibble dataset and neither llm.c's nor Megatron's; tokens "
                     "without a header need format raw_u16 or raw_u32"));
  }

  // All files of a source have the same width.
  absl::Status SetType(const std::string& path, TokenType type, bool first) {
    if (first) stream_.type_ = type;
    if (stream_.type_ == type) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has another type of token than the files before it"));
  }

  absl::Status AddLlmc(const std::string& path, bool first) {
    NIBBLE_RETURN_IF_ERROR(Open(path));
    const auto malformed = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
    };
    if (newest().size() < kLlmcHeaderBytes) return malformed("is shorter than llm.c's header");
    std::string contents(kLlmcHeaderBytes, '\0');
    NIBBLE_RETURN_IF_ERROR(newest().ReadAt(0, kLlmcHeaderBytes, contents.data()));
    const auto magic = Load<int32_t>(contents, 0);
    const auto version = Load<int32_t>(contents, 4);
    const auto tokens = Load<int32_t>(contents, 8);
    const bool narrow = magic == 20240520 && version == 1;
    if (!narrow && !(magic == 20240801 && version == 7)) {
      return malformed(absl::StrCat("has magic ", magic, " and version ", version,
                                    "; allowed: 20240520 and 1, 20240801 and 7"));
    }
    NIBBLE_RETURN_IF_ERROR(SetType(path, narrow ? TokenType::kU16 : TokenType::kU32, first));
    const int64_t expected = kLlmcHeaderBytes + tokens * BytesOf(stream_.type_);
    if (tokens < 0 || expected != newest().size()) {
      return absl::DataLossError(absl::StrCat(path, ": has ", newest().size(),
                                              " bytes; its header says ", tokens, " tokens"));
    }
    AddRun(kLlmcHeaderBytes, tokens);
    return absl::OkStatus();
  }

  absl::Status AddRaw(const std::string& path, TokenType type) {
    NIBBLE_RETURN_IF_ERROR(Open(path));
    stream_.type_ = type;
    const int64_t bytes = newest().size();
    if (bytes % BytesOf(type) != 0) {
      return absl::DataLossError(
          absl::StrCat(path, ": has ", bytes, " bytes, no multiple of ", BytesOf(type)));
    }
    AddRun(0, bytes / BytesOf(type));
    return absl::OkStatus();
  }

  static absl::StatusOr<TokenType> MegatronType(const std::string& path, uint8_t code) {
    switch (code) {
      case 1:
        return TokenType::kU8;
      case 2:
        return TokenType::kI8;
      case 3:
        return TokenType::kI16;
      case 4:
        return TokenType::kI32;
      case 5:
        return TokenType::kI64;
      case 8:
        return TokenType::kU16;
    }
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has type code ", code,
                     "; allowed: the integers 1 (u8), 2 (i8), 3 (i16), 4 (i32), 5 (i64), 8 (u16)"));
  }

  // The arrays behind Megatron's header; none of them need be aligned.
  struct MegatronIndex {
    absl::string_view bytes;
    size_t sequences = 0;
    size_t documents = 0;  // entries of the list, one more than documents
    int32_t length(size_t i) const { return Load<int32_t>(bytes, kMegatronHeaderBytes + 4 * i); }
    int64_t offset(size_t i) const {
      return Load<int64_t>(bytes, kMegatronHeaderBytes + 4 * sequences + 8 * i);
    }
    int64_t document(size_t i) const {
      return Load<int64_t>(bytes, kMegatronHeaderBytes + 12 * sequences + 8 * i);
    }
  };

  static absl::StatusOr<MegatronIndex> ParseIndex(const std::string& path,
                                                  absl::string_view bytes) {
    const auto malformed = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
    };
    if (bytes.size() < kMegatronHeaderBytes || bytes.substr(0, 9) != kMegatronMagic) {
      return malformed("does not begin as Megatron's index does");
    }
    if (Load<uint64_t>(bytes, 9) != 1) {
      return malformed(absl::StrCat("has version ", Load<uint64_t>(bytes, 9), "; allowed: 1"));
    }
    const auto sequences = Load<uint64_t>(bytes, 18);
    const auto documents = Load<uint64_t>(bytes, 26);
    const uint64_t left = bytes.size() - kMegatronHeaderBytes;
    // By division: the counts are anything.
    if (sequences > left / 12 || documents > (left - 12 * sequences) / 8) {
      return malformed(absl::StrCat("is too short for ", sequences, " sequences and ", documents,
                                    " document entries"));
    }
    const uint64_t rest = left - 12 * sequences - 8 * documents;
    if (rest != 0 && rest != sequences) {
      return malformed(absl::StrCat("has ", rest, " bytes after its arrays; allowed: none, or a ",
                                    "mode for each of ", sequences, " sequences"));
    }
    return MegatronIndex{bytes, sequences, documents};
  }

  absl::Status AddMegatron(const std::string& prefix, bool first) {
    const std::string index_path = prefix + ".idx";
    const std::string bin_path = prefix + ".bin";
    // Only read here, and too large to be copied.
    NIBBLE_ASSIGN_OR_RETURN(const MappedFile index_file, MappedFile::Open(index_path));
    NIBBLE_RETURN_IF_ERROR(Open(index_path));
    NIBBLE_RETURN_IF_ERROR(Open(bin_path));
    NIBBLE_ASSIGN_OR_RETURN(const MegatronIndex index,
                            ParseIndex(index_path, index_file.contents()));
    NIBBLE_ASSIGN_OR_RETURN(const TokenType type,
                            MegatronType(index_path, Load<uint8_t>(index.bytes, 17)));
    NIBBLE_RETURN_IF_ERROR(SetType(index_path, type, first));
    const int64_t bin_bytes = newest().size();
    int64_t next_document = 0;  // entry of the list
    for (size_t i = 0; i < index.sequences; ++i) {
      NIBBLE_RETURN_IF_ERROR(StartDocuments(index_path, index, i, &next_document));
      const int64_t length = index.length(i);
      const int64_t offset = index.offset(i);
      if (length < 0 || offset < 0 || offset > bin_bytes ||
          length > (bin_bytes - offset) / BytesOf(type)) {
        return absl::DataLossError(absl::StrCat(index_path, ": sequence ", i, " has ", length,
                                                " tokens at byte ", offset, "; ", bin_path, " has ",
                                                bin_bytes, " bytes"));
      }
      AddRun(offset, length);
    }
    return StartDocuments(index_path, index, index.sequences, &next_document);
  }

  // Notes the documents that start at sequence `i`; at the end, that the list is used up.
  absl::Status StartDocuments(const std::string& path, const MegatronIndex& index, size_t i,
                              int64_t* next) {
    const auto sequence = static_cast<int64_t>(i);
    std::vector<int64_t>& starts = stream_.document_starts_;
    while (*next < static_cast<int64_t>(index.documents) &&
           index.document(static_cast<size_t>(*next)) == sequence) {
      if (starts.empty() || starts.back() != stream_.tokens_) starts.push_back(stream_.tokens_);
      ++*next;
    }
    const bool at_end = i == index.sequences;
    const bool more = *next < static_cast<int64_t>(index.documents);
    if ((at_end && more) || (more && index.document(static_cast<size_t>(*next)) < sequence)) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": document entry ", *next, " is ", index.document(static_cast<size_t>(*next)),
          "; required: not less than the one before, at most ", index.sequences));
    }
    return absl::OkStatus();
  }

  absl::Status CheckDigest(const std::string& path) const {
    const std::string& expected =
        split_ == Split::kTrain ? source_.sha256 : source_.validation_sha256;
    if (expected.empty()) return absl::OkStatus();
    Sha256 sha;
    for (const TokenFile& file : stream_.files_) NIBBLE_RETURN_IF_ERROR(file.AddTo(&sha));
    const std::string digest = sha.HexDigest();
    if (digest == expected) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(path, ": the SHA-256 is ", digest, ", not ", expected, " as the job says"));
  }

  // A wrong vocabulary shows now, not in the middle of a run.
  absl::Status CheckRange(const std::string& path) const {
    constexpr int64_t kChunk = 1 << 16;
    std::vector<int32_t> chunk(static_cast<size_t>(std::min(kChunk, stream_.tokens_)));
    for (int64_t first = 0; first < stream_.tokens_; first += kChunk) {
      const absl::Status status =
          stream_.Read(first, std::min(kChunk, stream_.tokens_ - first), chunk.data());
      if (absl::IsOutOfRange(status)) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.message()));
      }
      NIBBLE_RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }

  const SourceConfig& source_;
  const Split split_;
  TokenStream stream_;
};

absl::StatusOr<TokenStream> TokenStream::Open(const SourceConfig& source, Split split,
                                              int64_t vocab_limit) {
  return TokenStreamBuilder(source, split, vocab_limit).Build();
}

}  // namespace nibble::data
