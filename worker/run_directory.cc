#include "worker/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/checkpoint/checkpoint_store.h"

namespace nibble::worker {
namespace {

// Length of the part of `text` whose lines are whole rows of steps up to `step`.
size_t GoodPrefix(absl::string_view text, int64_t step) {
  size_t good = 0;
  while (good < text.size()) {
    const size_t end = text.find('\n', good);
    if (end == absl::string_view::npos) break;
    const absl::string_view line = text.substr(good, end - good);
    const nlohmann::json row = nlohmann::json::parse(line.begin(), line.end(), nullptr,
                                                     /*allow_exceptions=*/false);
    if (!row.is_object() || !row.contains("step") || !row["step"].is_number_integer() ||
        row["step"].get<int64_t>() > step) {
      break;
    }
    good = end + 1;
  }
  return good;
}

// What a step of training reports, beside its number and scores.
void AddTraining(const trainer::StepReport& report, nlohmann::ordered_json* row) {
  (*row)["tokens"] = report.tokens;
  (*row)["loss"] = report.loss;
  if (report.has_objective) (*row)["objective"] = report.objective;
  (*row)["learning_rate"] = report.learning_rate;
  (*row)["grad_norm"] = report.grad_norm;
  (*row)["step_seconds"] = report.step_seconds;
  if (report.has_validation) {
    (*row)["validation_loss"] = report.validation_loss;
    if (report.validation_bits_per_byte > 0) {
      (*row)["validation_bits_per_byte"] = report.validation_bits_per_byte;
    }
  }
  if (report.data.size() == 1) (*row)["epoch"] = report.data[0].epochs;
  for (size_t i = 0; report.data.size() > 1 && i < report.data.size(); ++i) {
    (*row)[absl::StrCat("data/", i, "/epoch")] = report.data[i].epochs;
    (*row)[absl::StrCat("data/", i, "/tokens")] = report.data[i].tokens;
  }
  for (const auto& [name, value] : report.health) {
    if (std::isfinite(value)) (*row)[name] = value;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunDirectory>> RunDirectory::Open(const std::string& path) {
  NIBBLE_RETURN_IF_ERROR(MakeDirectories(path));
  const std::string lock = JoinPath(path, "lock");
  const int fd = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "open", lock);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    close(fd);
    if (error != EWOULDBLOCK) return ErrnoStatus(error, "lock", lock);
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is in use by another nibble-trainer"));
  }
  return std::unique_ptr<RunDirectory>(new RunDirectory(path, fd));
}

RunDirectory::~RunDirectory() {
  if (metrics_fd_ >= 0) close(metrics_fd_);
  close(lock_fd_);
}

std::string RunDirectory::checkpoints_directory() const { return JoinPath(path_, "checkpoints"); }

absl::StatusOr<ResumePoint> RunDirectory::NewestCheckpoint() const {
  const std::vector<int64_t> steps = checkpoint::ListCheckpoints(checkpoints_directory());
  absl::Status first_error;
  for (int64_t step : steps) {
    const std::string path = checkpoint::CheckpointPath(checkpoints_directory(), step);
    const absl::StatusOr<checkpoint::OpenCheckpoint> opened =
        checkpoint::OpenAndVerify(path, /*expected_digest=*/"");
    if (opened.ok()) return ResumePoint{path, opened->manifest_digest};
    NIBBLE_LOG(kWarning,
               absl::StrCat("skipping a damaged checkpoint: ", opened.status().message()));
    if (first_error.ok()) first_error = opened.status();
  }
  if (!first_error.ok()) {
    return absl::DataLossError(absl::StrCat("no checkpoint in ", checkpoints_directory(),
                                            " is whole: ", first_error.message()));
  }
  return ResumePoint{};
}

absl::Status RunDirectory::StartMetrics(int64_t step) {
  const std::string path = JoinPath(path_, "metrics.jsonl");
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  metrics_fd_ = fd;
  size_t good = 0;
  {
    NIBBLE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
    good = GoodPrefix(file.contents(), step);
  }
  if (ftruncate(fd, static_cast<off_t>(good)) != 0) return ErrnoStatus(errno, "truncate", path);
  return absl::OkStatus();
}

absl::Status RunDirectory::AppendMetrics(const trainer::StepReport& report, bool durable) {
  nlohmann::ordered_json row;
  row["step"] = report.step;
  if (report.trained) AddTraining(report, &row);
  for (const auto& [name, value] : report.evaluation) row[name] = value;
  const std::string line = row.dump() + "\n";
  size_t written = 0;
  while (written < line.size()) {
    const ssize_t count = write(metrics_fd_, line.data() + written, line.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "write", JoinPath(path_, "metrics.jsonl"));
    written += static_cast<size_t>(count);
  }
  if (durable && fdatasync(metrics_fd_) != 0) {
    return ErrnoStatus(errno, "fdatasync", JoinPath(path_, "metrics.jsonl"));
  }
  return absl::OkStatus();
}

absl::Status RunDirectory::KeepCheckpoints(int64_t step, int64_t keep) const {
  int64_t kept = 0;
  for (int64_t candidate : checkpoint::ListCheckpoints(checkpoints_directory())) {
    if (candidate > step || ++kept <= keep) continue;
    NIBBLE_RETURN_IF_ERROR(
        RemoveTree(checkpoint::CheckpointPath(checkpoints_directory(), candidate)));
  }
  return absl::OkStatus();
}

absl::Status RunDirectory::WriteResult(const std::string& json) const {
  return ReplaceFileDurably(JoinPath(path_, "result.json"), json);
}

}  // namespace nibble::worker
