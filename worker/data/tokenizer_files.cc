// Which tokenizer a path holds.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer.h"

namespace nibble::data {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;

enum class Kind { kNone, kBpe, kTiktoken, kSentencePiece, kLlama2c };

struct Found {
  Kind kind = Kind::kNone;
  // Where they are, and what they are called beside a dataset.
  std::vector<std::pair<std::string, std::string>> files;
};

Found FindFile(const std::string& path) {
  for (const auto& [suffix, kind] :
       {std::pair<absl::string_view, Kind>{".tiktoken", Kind::kTiktoken},
        {".model", Kind::kSentencePiece},
        {".bin", Kind::kLlama2c}}) {
    if (absl::EndsWith(path, suffix)) return {kind, {{path, absl::StrCat("tokenizer", suffix)}}};
  }
  return {};
}

Found FindTokenizer(const std::string& path) {
  const std::string vocab = JoinPath(path, "vocab.json");
  const std::string merges = JoinPath(path, "merges.txt");
  if (FileExists(vocab) && FileExists(merges)) {
    return {Kind::kBpe, {{vocab, "vocab.json"}, {merges, "merges.txt"}}};
  }
  for (const char* name : {"tokenizer.model", "tokenizer.tiktoken", "tokenizer.bin"}) {
    const std::string file = JoinPath(path, name);
    if (FileExists(file)) return FindFile(file);
  }
  const std::string inside = JoinPath(path, kTokenizerDirectory);
  if (FileExists(inside)) return FindTokenizer(inside);
  return FindFile(path);
}

absl::Status NoTokenizer(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat(path,
                   ": is no tokenizer; allowed: bytes, a directory with vocab.json and "
                   "merges.txt or with tokenizer.model, a file .tiktoken, .model "
                   "(SentencePiece) or .bin (llama2.c)"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path) {
  if (path == "bytes") return MakeByteTokenizer();
  const Found found = FindTokenizer(path);
  switch (found.kind) {
    case Kind::kBpe:
      return LoadBpeTokenizer({.vocab = found.files[0].first, .merges = found.files[1].first});
    case Kind::kTiktoken:
      return LoadTiktokenTokenizer(found.files[0].first);
    case Kind::kSentencePiece:
      return LoadSentencePieceTokenizer(found.files[0].first);
    case Kind::kLlama2c:
      return LoadLlama2cTokenizer(found.files[0].first);
    case Kind::kNone:
      break;
  }
  return NoTokenizer(path);
}

absl::Status CopyTokenizer(const std::string& path, const std::string& directory) {
  if (path == "bytes") return absl::OkStatus();
  const Found found = FindTokenizer(path);
  if (found.kind == Kind::kNone) return NoTokenizer(path);
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(directory));
  for (const auto& [from, name] : found.files) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string contents, ReadFile(from, kMaxFileBytes));
    NIBBLE_RETURN_IF_ERROR(WriteFileDurably(JoinPath(directory, name), contents));
  }
  return FsyncDirectory(directory);
}

}  // namespace nibble::data
