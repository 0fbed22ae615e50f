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

enum class Kind { kNone, kBpe, kTiktoken, kSentencePiece, kLlama2c, kHuggingFace };

struct Found {
  Kind kind = Kind::kNone;
  // Where they are, and what they are called beside a dataset.
  std::vector<std::pair<std::string, std::string>> files;
};

Found FindFile(const std::string& path) {
  for (const auto& [suffix, kind] :
       {std::pair<absl::string_view, Kind>{".tiktoken", Kind::kTiktoken},
        {".model", Kind::kSentencePiece},
        {".bin", Kind::kLlama2c},
        {"tokenizer.json", Kind::kHuggingFace}}) {
    if (!absl::EndsWith(path, suffix)) continue;
    return {kind,
            {{path, kind == Kind::kHuggingFace ? std::string(suffix)
                                               : absl::StrCat("tokenizer", suffix)}}};
  }
  return {};
}

// Adds what else of a tokenizer lies in the directory, for those who read it with other programs.
Found WithCompanions(const std::string& directory, Found found) {
  for (const char* name : {"vocab.json", "merges.txt", "tokenizer.model", "tokenizer.json"}) {
    const std::string file = JoinPath(directory, name);
    bool listed = false;
    for (const auto& [path, as] : found.files) listed = listed || as == name;
    if (!listed && FileExists(file)) found.files.emplace_back(file, name);
  }
  return found;
}

Found FindTokenizer(const std::string& path) {
  const std::string vocab = JoinPath(path, "vocab.json");
  const std::string merges = JoinPath(path, "merges.txt");
  if (FileExists(vocab) && FileExists(merges)) {
    return WithCompanions(path, {Kind::kBpe, {{vocab, "vocab.json"}, {merges, "merges.txt"}}});
  }
  for (const char* name :
       {"tokenizer.model", "tokenizer.tiktoken", "tokenizer.bin", "tokenizer.json"}) {
    const std::string file = JoinPath(path, name);
    if (FileExists(file)) return WithCompanions(path, FindFile(file));
  }
  const std::string inside = JoinPath(path, kTokenizerDirectory);
  if (FileExists(inside)) return FindTokenizer(inside);
  return FindFile(path);
}

absl::Status NoTokenizer(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat(path,
                   ": is no tokenizer; allowed: bytes, a directory with vocab.json and "
                   "merges.txt or with tokenizer.model or tokenizer.json, a file .tiktoken, "
                   ".model (SentencePiece), .bin (llama2.c) or tokenizer.json"));
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
    case Kind::kHuggingFace:
      return LoadHuggingFaceTokenizer(found.files[0].first);
    case Kind::kNone:
      break;
  }
  return NoTokenizer(path);
}

bool HasTokenizer(const std::string& path) { return FindTokenizer(path).kind != Kind::kNone; }

absl::StatusOr<std::vector<NamedFile>> ReadTokenizerFiles(const std::string& path) {
  std::vector<NamedFile> files;
  if (path == "bytes") return files;
  const Found found = FindTokenizer(path);
  if (found.kind == Kind::kNone) return NoTokenizer(path);
  for (const auto& [from, name] : found.files) {
    NIBBLE_ASSIGN_OR_RETURN(std::string contents, ReadFile(from, kMaxFileBytes));
    files.push_back({name, std::move(contents)});
  }
  return files;
}

absl::Status CopyTokenizer(const std::string& path, const std::string& directory) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<NamedFile> files, ReadTokenizerFiles(path));
  if (files.empty()) return absl::OkStatus();
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(directory));
  for (const NamedFile& file : files) {
    NIBBLE_RETURN_IF_ERROR(WriteFileDurably(JoinPath(directory, file.name), file.contents));
  }
  return FsyncDirectory(directory);
}

}  // namespace nibble::data
