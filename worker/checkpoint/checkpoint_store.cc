#include "worker/checkpoint/checkpoint_store.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/bulk_copy.h"
#include "base/check.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/xxh3.h"

namespace nibble::checkpoint {
namespace {

constexpr absl::string_view kPrefix = "step-";
constexpr absl::string_view kTemporarySuffix = ".tmp";

absl::StatusOr<ManifestFile> WriteTensors(const std::string& directory, const char* name,
                                          TensorSource& source) {
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsWriter> writer,
                          SafetensorsWriter::Create(JoinPath(directory, name), source.Tensors()));
  NIBBLE_RETURN_IF_ERROR(source.WriteTo(*writer));
  NIBBLE_RETURN_IF_ERROR(writer->Finish());
  return ManifestFile{name, writer->size_bytes(), writer->sha256(), writer->xxh3()};
}

absl::StatusOr<ManifestFile> WriteText(const std::string& directory, const TextFile& file) {
  NIBBLE_CHECK(IsCheckpointFile(file.name));
  NIBBLE_RETURN_IF_ERROR(WriteFileDurably(JoinPath(directory, file.name), file.contents));
  return ManifestFile{file.name, static_cast<int64_t>(file.contents.size()),
                      Sha256Hex(file.contents), PieceDigestHex(file.contents, /*threads=*/1)};
}

absl::StatusOr<SavedCheckpoint> WriteFiles(const std::string& directory,
                                           const CheckpointContents& contents) {
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(directory));
  Manifest manifest;
  manifest.state = contents.state;
  std::vector<ManifestFile>& files = manifest.files;
  NIBBLE_ASSIGN_OR_RETURN(files.emplace_back(),
                          WriteTensors(directory, kModelFile, *contents.model));
  if (contents.optimizer != nullptr) {
    NIBBLE_ASSIGN_OR_RETURN(files.emplace_back(),
                            WriteTensors(directory, kOptimizerFile, *contents.optimizer));
  }
  for (const TextFile& text : contents.texts) {
    NIBBLE_ASSIGN_OR_RETURN(files.emplace_back(), WriteText(directory, text));
  }
  const std::string text = ManifestToJson(manifest);
  NIBBLE_RETURN_IF_ERROR(WriteFileDurably(JoinPath(directory, kManifestFile), text));
  NIBBLE_RETURN_IF_ERROR(FsyncDirectory(directory));
  SavedCheckpoint saved;
  saved.manifest_digest = Sha256Hex(text);
  saved.size_bytes = static_cast<int64_t>(text.size());
  for (const ManifestFile& file : files) saved.size_bytes += file.size_bytes;
  return saved;
}

// Puts `temporary` at `path`. Where a killed attempt left a checkpoint there, the two change places
// in one operation, so that at no instant there is none.
absl::Status PutInPlace(const std::string& temporary, const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return RenameDurably(temporary, path);
  if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL && errno != ENOSYS) return ErrnoStatus(errno, "exchange", path);
    // A file system that cannot exchange.
    NIBBLE_RETURN_IF_ERROR(RemoveTree(path));
    return RenameDurably(temporary, path);
  }
  NIBBLE_RETURN_IF_ERROR(FsyncDirectory(std::filesystem::path(path).parent_path().string()));
  return RemoveTree(temporary);
}

absl::Status AtPath(const absl::Status& status, const std::string& path) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

// Maps a file of the manifest, its size verified.
absl::StatusOr<MappedFile> MapFile(const std::string& directory, const ManifestFile& expected) {
  const std::string path = JoinPath(directory, expected.name);
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "open", path);
  if (!S_ISREG(info.st_mode) || info.st_size != expected.size_bytes) {
    return absl::DataLossError(absl::StrCat(path, " has ", info.st_size,
                                            " bytes; the manifest has ", expected.size_bytes));
  }
  return MappedFile::Open(path);
}

absl::Status WrongDigest(const std::string& path) {
  return absl::DataLossError(absl::StrCat(path, ": its digest is not the manifest's"));
}

// And its digest.
absl::StatusOr<MappedFile> MapVerified(const std::string& directory, const ManifestFile& expected,
                                       int threads) {
  NIBBLE_ASSIGN_OR_RETURN(MappedFile file, MapFile(directory, expected));
  const bool same = expected.xxh3.empty()
                        ? Sha256Hex(file.contents()) == expected.sha256
                        : PieceDigestHex(file.contents(), threads) == expected.xxh3;
  if (!same) return WrongDigest(JoinPath(directory, expected.name));
  return file;
}

enum class Parts { kAll, kWithoutOptimizer };
enum class Verify { kNow, kWithTheCopy };

struct OpenOptions {
  Parts parts = Parts::kAll;
  Verify verify = Verify::kNow;
  int threads = 0;
};

absl::StatusOr<TensorFile> OpenTensors(const std::string& directory, const ManifestFile& expected,
                                       const OpenOptions& options) {
  const std::string path = JoinPath(directory, expected.name);
  absl::StatusOr<TensorFile> parsed = absl::UnknownError("not opened");
  if (options.verify == Verify::kWithTheCopy && !expected.xxh3.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(MappedFile file, MapFile(directory, expected));
    parsed = TensorFile::ParseUnverified(std::move(file), expected.xxh3, path);
  } else {
    NIBBLE_ASSIGN_OR_RETURN(MappedFile file, MapVerified(directory, expected, options.threads));
    parsed = TensorFile::Parse(std::move(file));
  }
  if (!parsed.ok()) return AtPath(parsed.status(), path);
  return parsed;
}

// Every file but the model's; the optimiser's where the options have it and there is one.
absl::StatusOr<std::optional<TensorFile>> OpenOthers(const std::string& directory,
                                                     const Manifest& manifest,
                                                     const OpenOptions& options) {
  std::optional<TensorFile> optimizer;
  for (const ManifestFile& file : manifest.files) {
    if (file.name == kModelFile) continue;
    if (file.name != kOptimizerFile) {
      NIBBLE_RETURN_IF_ERROR(MapVerified(directory, file, options.threads).status());
    } else if (options.parts == Parts::kAll) {
      NIBBLE_ASSIGN_OR_RETURN(optimizer, OpenTensors(directory, file, options));
    }
  }
  return optimizer;
}

absl::StatusOr<OpenCheckpoint> Open(const std::string& directory,
                                    const std::string& expected_digest,
                                    const OpenOptions& options) {
  const std::string path = JoinPath(directory, kManifestFile);
  absl::StatusOr<std::string> text = ReadFile(path, kMaxManifestBytes);
  if (absl::IsResourceExhausted(text.status())) {
    return absl::DataLossError(text.status().message());
  }
  if (!text.ok()) return text.status();
  const std::string digest = Sha256Hex(*text);
  if (!expected_digest.empty() && digest != expected_digest) {
    return absl::DataLossError(
        absl::StrCat(path, " has SHA-256 ", digest, "; the committed one has ", expected_digest));
  }
  absl::StatusOr<Manifest> manifest = ManifestFromJson(*text);
  if (!manifest.ok()) return AtPath(manifest.status(), directory);
  NIBBLE_ASSIGN_OR_RETURN(TensorFile model,
                          OpenTensors(directory, *manifest->Find(kModelFile), options));
  NIBBLE_ASSIGN_OR_RETURN(std::optional<TensorFile> optimizer,
                          OpenOthers(directory, *manifest, options));
  return OpenCheckpoint{*std::move(manifest), digest, std::move(model), std::move(optimizer)};
}

}  // namespace

absl::StatusOr<TensorFile> TensorFile::Parse(MappedFile file) {
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensors(file.contents()));
  return TensorFile(std::move(file), std::move(header));
}

absl::StatusOr<TensorFile> TensorFile::ParseUnverified(MappedFile file, std::string digest,
                                                       std::string path) {
  NIBBLE_ASSIGN_OR_RETURN(TensorFile parsed, Parse(std::move(file)));
  parsed.unverified_ = std::move(digest);
  parsed.path_ = std::move(path);
  return parsed;
}

absl::StatusOr<absl::string_view> TensorFile::Values(absl::string_view name,
                                                     const std::vector<int64_t>& shape) const {
  NIBBLE_CHECK(verified());
  return Find(name, shape);
}

absl::Status TensorFile::CopyAndVerify(const std::vector<TensorTarget>& targets,
                                       int threads) const {
  NIBBLE_CHECK(!verified());
  struct Range {
    size_t begin, end;  // in the file
    char* to;
  };
  const absl::string_view file = file_.contents();
  std::vector<Range> ranges;
  for (const TensorTarget& target : targets) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view values, Find(target.name, target.shape));
    const auto begin = static_cast<size_t>(values.data() - file.data());
    ranges.push_back({begin, begin + values.size(), static_cast<char*>(target.values)});
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  const auto copy = [&](size_t offset, absl::string_view part) {
    auto range = std::upper_bound(ranges.begin(), ranges.end(), offset,
                                  [](size_t at, const Range& r) { return at < r.end; });
    for (; range != ranges.end() && range->begin < offset + part.size(); ++range) {
      const size_t begin = std::max(range->begin, offset);
      const size_t end = std::min(range->end, offset + part.size());
      BulkCopy(range->to + (begin - range->begin), file.data() + begin, end - begin);
    }
  };
  if (PieceDigestHex(file, threads, copy) != unverified_) return WrongDigest(path_);
  return absl::OkStatus();
}

absl::StatusOr<absl::string_view> TensorFile::Find(absl::string_view name,
                                                   const std::vector<int64_t>& shape) const {
  const TensorInfo* tensor = header_.Find(name);
  if (tensor == nullptr) return absl::DataLossError(absl::StrCat("no tensor '", name, "'"));
  if (tensor->dtype != "F32" || tensor->shape != shape) {
    return absl::DataLossError(
        absl::StrCat("tensor '", name, "' has another dtype or shape than the model"));
  }
  return file_.contents().substr(header_.data_start + tensor->begin, tensor->end - tensor->begin);
}

std::string CheckpointPath(const std::string& root, int64_t step) {
  return JoinPath(root, absl::StrCat(kPrefix, step));
}

absl::StatusOr<SavedCheckpoint> SaveCheckpoint(const std::string& root,
                                               const CheckpointContents& contents) {
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(root));
  return SaveCheckpointAt(CheckpointPath(root, contents.state.step), contents);
}

absl::StatusOr<SavedCheckpoint> SaveCheckpointAt(const std::string& directory,
                                                 const CheckpointContents& contents) {
  const std::string temporary = absl::StrCat(directory, kTemporarySuffix);
  NIBBLE_RETURN_IF_ERROR(RemoveTree(temporary));
  absl::StatusOr<SavedCheckpoint> saved = WriteFiles(temporary, contents);
  if (!saved.ok()) {
    // A full disk must be left emptier than it was found; the first error is the one to tell.
    RemoveTree(temporary).IgnoreError();
    return saved.status();
  }
  NIBBLE_RETURN_IF_ERROR(PutInPlace(temporary, directory));
  saved->path = directory;
  return saved;
}

absl::Status VerifyWritten(const SavedCheckpoint& saved) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(saved.path));
  for (const std::string& name : names) {
    const int fd = open(JoinPath(saved.path, name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;  // OpenAndVerify says why
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
  return OpenAndVerify(saved.path, saved.manifest_digest).status();
}

absl::StatusOr<OpenCheckpoint> OpenAndVerify(const std::string& directory,
                                             const std::string& expected_digest, int threads) {
  return Open(directory, expected_digest, {Parts::kAll, Verify::kNow, threads});
}

absl::StatusOr<OpenCheckpoint> OpenToCopy(const std::string& directory,
                                          const std::string& expected_digest) {
  return Open(directory, expected_digest, {Parts::kAll, Verify::kWithTheCopy, /*threads=*/0});
}

absl::StatusOr<OpenCheckpoint> OpenWeights(const std::string& directory) {
  return Open(directory, /*expected_digest=*/"", {Parts::kWithoutOptimizer});
}

absl::StatusOr<std::string> ReadCheckpointText(const std::string& directory,
                                               const Manifest& manifest, absl::string_view name,
                                               int64_t max_bytes) {
  const ManifestFile* file = manifest.Find(name);
  if (file == nullptr) {
    return absl::NotFoundError(absl::StrCat("the checkpoint in ", directory, " has no ", name));
  }
  if (file->size_bytes > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        JoinPath(directory, name), " has ", file->size_bytes, " bytes; at most ", max_bytes));
  }
  NIBBLE_ASSIGN_OR_RETURN(const MappedFile mapped, MapVerified(directory, *file, /*threads=*/1));
  return std::string(mapped.contents());
}

std::vector<int64_t> ListCheckpoints(const std::string& root) {
  std::vector<int64_t> steps;
  const absl::StatusOr<std::vector<std::string>> names = ListDirectory(root);
  if (!names.ok()) return steps;
  for (const std::string& name : *names) {
    absl::string_view number = name;
    int64_t step = 0;
    if (absl::ConsumePrefix(&number, kPrefix) && absl::SimpleAtoi(number, &step) && step >= 0 &&
        name == absl::StrCat(kPrefix, step)) {
      steps.push_back(step);
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

absl::Status RemoveTemporaries(const std::string& root) {
  if (!FileExists(root)) return absl::OkStatus();
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(root));
  for (const std::string& name : names) {
    if (absl::StartsWith(name, kPrefix) && absl::EndsWith(name, kTemporarySuffix)) {
      NIBBLE_RETURN_IF_ERROR(RemoveTree(JoinPath(root, name)));
    }
  }
  return absl::OkStatus();
}

}  // namespace nibble::checkpoint
