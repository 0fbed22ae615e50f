#include "worker/data/partial_dataset.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace nibble::data {
namespace {

using Json = nlohmann::json;

constexpr char kProgressFile[] = "progress.json";
constexpr char kPlanFile[] = "plan.bin";
constexpr char kLockFile[] = "lock";
constexpr int64_t kMaxProgressBytes = int64_t{64} << 20;

absl::Status CheckFree(const std::string& path, bool overwrite) {
  if (!FileExists(path)) return absl::OkStatus();
  if (!overwrite) return absl::AlreadyExistsError(absl::StrCat(path, " exists"));
  if (FileExists(JoinPath(path, kDatasetFileName))) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(path, " exists and holds no dataset, so it is not replaced"));
}

Json ToJson(const SideState& side) {
  Json files = Json::array();
  for (const ShardFile& file : side.shards.files) {
    files.push_back({{"name", file.name}, {"tokens", file.tokens}, {"sha256", file.sha256}});
  }
  return {{"documents", side.documents},
          {"bytes", side.bytes},
          {"tokens", side.tokens},
          {"files", std::move(files)},
          {"open_tokens", side.shards.open_tokens}};
}

Json ToJson(const PreparationIdentity& identity) {
  Json inputs = Json::array();
  for (const PreparationIdentity::Input& input : identity.inputs) {
    inputs.push_back({input.path, input.size, input.modified_nanos});
  }
  return {{"options", identity.options}, {"inputs", std::move(inputs)}};
}

// Written by this program alone; whatever does not read as it was written is of another version.
bool FromJson(const Json& json, SideState* side) {
  side->documents = json.value("documents", int64_t{-1});
  side->bytes = json.value("bytes", int64_t{-1});
  side->tokens = json.value("tokens", int64_t{-1});
  side->shards.open_tokens = json.value("open_tokens", int64_t{-1});
  for (const Json& file : json.value("files", Json::array())) {
    side->shards.files.push_back(
        {file.value("name", ""), file.value("tokens", int64_t{0}), file.value("sha256", "")});
  }
  return side->documents >= 0 && side->bytes >= 0 && side->tokens >= 0 &&
         side->shards.open_tokens >= 0;
}

std::string Difference(const Json& before, const PreparationIdentity& now) {
  const Json inputs = before.value("inputs", Json::array());
  const Json wanted = ToJson(now)["inputs"];
  for (size_t i = 0; i < std::min(inputs.size(), wanted.size()); ++i) {
    if (inputs[i] == wanted[i]) continue;
    const PreparationIdentity::Input& input = now.inputs[i];
    if (inputs[i][0] != wanted[i][0]) {
      return absl::StrCat("input ", i + 1, " was ",
                          EscapeControlCharacters(inputs[i][0].get<std::string>()), ", now it is ",
                          EscapeControlCharacters(input.path));
    }
    return absl::StrCat(EscapeControlCharacters(input.path),
                        " has changed since: ", inputs[i][1].get<int64_t>(), " bytes then, ",
                        input.size, " now",
                        inputs[i][1] == wanted[i][1] ? ", at another time" : "");
  }
  if (inputs.size() != wanted.size()) {
    return absl::StrCat("there were ", inputs.size(), " inputs, now there are ", wanted.size());
  }
  return "its options or its tokenizer were others";
}

}  // namespace

absl::StatusOr<std::unique_ptr<PartialDataset>> PartialDataset::Open(
    std::string output, bool overwrite, bool restart, const PreparationIdentity& identity) {
  while (output.size() > 1 && output.back() == '/') output.pop_back();
  NIBBLE_RETURN_IF_ERROR(CheckFree(output, overwrite));
  const std::string directory = output + ".partial";
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(directory));
  const std::string lock = JoinPath(directory, kLockFile);
  const int fd = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "open", lock);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    close(fd);
    if (error != EWOULDBLOCK) return ErrnoStatus(error, "lock", lock);
    return absl::FailedPreconditionError(
        absl::StrCat(output, " is being prepared by another process"));
  }
  std::unique_ptr<PartialDataset> partial(new PartialDataset(output, directory, fd));
  partial->identity_ = identity;
  const absl::Status loaded = restart ? absl::NotFoundError("not wanted") : partial->Load(identity);
  if (absl::IsNotFound(loaded)) {
    NIBBLE_RETURN_IF_ERROR(partial->StartAnew());
  } else if (!loaded.ok()) {
    // Somebody else's work: not this object's to remove.
    close(fd);
    partial->lock_fd_ = -1;
    return loaded;
  }
  return partial;
}

PartialDataset::~PartialDataset() {
  if (lock_fd_ < 0) return;
  RemoveTree(directory_).IgnoreError();
  close(lock_fd_);
}

absl::Status PartialDataset::Load(const PreparationIdentity& identity) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string text,
                          ReadFile(JoinPath(directory_, kProgressFile), kMaxProgressBytes));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto refuse = [this](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat(
        directory_, " is what an interrupted preparation left, which cannot go on: ", why,
        "; restart it, or remove the directory"));
  };
  try {
    if (!json.is_object() || json.value("version", 0) != 1) return refuse("it is not readable");
    if (json["identity"] != ToJson(identity)) return refuse(Difference(json["identity"], identity));
    state_.documents = json.value("documents", int64_t{-1});
    state_.dropped_nul_bytes = json.value("dropped_nul_bytes", int64_t{-1});
    if (state_.documents < 0 || state_.dropped_nul_bytes < 0 ||
        !FromJson(json["train"], &state_.train) ||
        !FromJson(json["validation"], &state_.validation)) {
      return refuse("it is not readable");
    }
  } catch (const std::exception&) {
    return refuse("it is not readable");
  }
  return absl::OkStatus();
}

absl::Status PartialDataset::StartAnew() {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(directory_));
  for (const std::string& name : names) {
    if (name != kLockFile) NIBBLE_RETURN_IF_ERROR(RemoveTree(JoinPath(directory_, name)));
  }
  return Save(PreparationState());
}

absl::Status PartialDataset::Save(const PreparationState& state) {
  state_ = state;
  const Json json = {{"version", 1},
                     {"identity", ToJson(identity_)},
                     {"documents", state.documents},
                     {"dropped_nul_bytes", state.dropped_nul_bytes},
                     {"train", ToJson(state.train)},
                     {"validation", ToJson(state.validation)}};
  return ReplaceFileDurably(JoinPath(directory_, kProgressFile),
                            json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

absl::StatusOr<LastSplitPlan> PartialDataset::LoadPlan() const {
  NIBBLE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(JoinPath(directory_, kPlanFile)));
  return LastSplitPlan::Parse(file.contents());
}

absl::Status PartialDataset::SavePlan(const LastSplitPlan& plan) const {
  return ReplaceFileDurably(JoinPath(directory_, kPlanFile), plan.Serialize());
}

absl::Status PartialDataset::Publish(bool overwrite) {
  for (const char* name : {kProgressFile, kPlanFile, kLockFile}) {
    NIBBLE_RETURN_IF_ERROR(RemoveTree(JoinPath(directory_, name)));
  }
  NIBBLE_RETURN_IF_ERROR(FsyncDirectory(directory_));
  NIBBLE_RETURN_IF_ERROR(CheckFree(output_, overwrite));
  if (!FileExists(output_)) return RenameDurably(directory_, output_);
  // Exchanged, so that a dataset is there at every instant.
  if (renameat2(AT_FDCWD, directory_.c_str(), AT_FDCWD, output_.c_str(), RENAME_EXCHANGE) != 0) {
    return ErrnoStatus(errno, "replace", output_);
  }
  const std::string parent = std::filesystem::path(output_).parent_path().string();
  return FsyncDirectory(parent.empty() ? "." : parent);
}

}  // namespace nibble::data
