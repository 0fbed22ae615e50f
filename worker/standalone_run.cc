#include "worker/standalone_run.h"

#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_resolution.h"
#include "proto/spec/spec_document.h"
#include "worker/run_directory.h"
#include "worker/trainer/training_run.h"
#include "worker/trainer_config.h"

namespace nibble::worker {
namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

class FileObserver : public trainer::TrainingObserver {
 public:
  FileObserver(const trainer::TrainingConfig& config, int64_t keep, RunDirectory& directory)
      : config_(config), keep_(keep), directory_(directory) {}

  absl::Status OnStarted(int64_t step) override {
    if (config_.steps == 0) {
      NIBBLE_LOG(kInfo, absl::StrCat("scoring ", config_.init_from));
      return directory_.StartMetrics(/*step=*/-1);
    }
    NIBBLE_LOG(kInfo, step == 0 ? absl::StrCat("training ", config_.steps, " steps")
                                : absl::StrCat("resumed after step ", step, " of ", config_.steps));
    return directory_.StartMetrics(step);
  }

  absl::Status OnNote(const trainer::RunNote& note) override {
    NIBBLE_LOG(kWarning, note.message);
    return absl::OkStatus();
  }

  absl::Status OnStep(const trainer::StepReport& report) override {
    if (report.has_validation) {
      NIBBLE_LOG(kInfo, absl::StrFormat("step %d: loss %.4f, validation loss %.4f, %.4f bits/byte",
                                        report.step, report.loss, report.validation_loss,
                                        report.validation_bits_per_byte));
    }
    for (const auto& [name, value] : report.evaluation) {
      NIBBLE_LOG(kInfo, absl::StrFormat("step %d: %s %.4f", report.step, name, value));
    }
    // Rows must not be lost where the checkpoint that follows them is kept.
    const bool checkpoint_follows =
        report.step == config_.steps || stop_requested ||
        (config_.checkpoint_interval > 0 && report.step % config_.checkpoint_interval == 0);
    return directory_.AppendMetrics(report, /*durable=*/checkpoint_follows);
  }

  absl::Status OnCheckpoint(const trainer::CheckpointReport& report, bool) override {
    return directory_.KeepCheckpoints(report.step, keep_);
  }

  bool PauseRequested() override { return stop_requested; }

 private:
  const trainer::TrainingConfig& config_;
  const int64_t keep_;
  RunDirectory& directory_;
};

absl::StatusOr<std::string> AbsolutePath(const std::string& path) {
  if (!path.empty() && path[0] == '/') return path;
  std::unique_ptr<char, decltype(&free)> current(getcwd(nullptr, 0), &free);
  if (current == nullptr) return ErrnoStatus(errno, "getcwd", ".");
  return JoinPath(current.get(), path);
}

absl::StatusOr<spec::ResolvedJob> LoadSpec(const StandaloneOptions& options) {
  absl::StatusOr<std::string> text = ReadFile(options.spec_file, spec::kMaxDocumentBytes);
  if (!text.ok()) return absl::InvalidArgumentError(text.status().message());
  NIBBLE_ASSIGN_OR_RETURN(
      v1::JobSpec parsed,
      spec::ParseJobSpec(*text, spec::FormatOfFile(options.spec_file), /*errors=*/nullptr));
  if (options.steps > 0) {
    parsed.mutable_training()->clear_tokens();
    parsed.mutable_training()->set_steps(options.steps);
  }
  if (!options.backend.empty()) parsed.mutable_resources()->set_backend(options.backend);
  if (options.threads >= 0) parsed.mutable_resources()->set_threads(options.threads);
  return spec::ResolveJob(parsed, /*errors=*/nullptr);
}

absl::StatusOr<std::string> ResultJson(const trainer::RunResult& result,
                                       const spec::ResolvedJob& job,
                                       const trainer::TrainingConfig& config) {
  std::string spec_json;
  google::protobuf::util::JsonPrintOptions print;
  print.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(job.spec, &spec_json, print).ok()) {
    return absl::InternalError("cannot write the spec as JSON");
  }
  nlohmann::ordered_json json;
  json["digest"] = result.digest;
  json["steps"] = result.steps;
  json["tokens"] = result.tokens;
  json["train_loss"] = result.train_loss;
  if (result.has_validation) {
    json["validation_loss"] = result.validation_loss;
    if (result.validation_bits_per_byte > 0) {
      json["validation_bits_per_byte"] = result.validation_bits_per_byte;
    }
  }
  if (!result.evaluation.empty()) json["evaluation"] = result.evaluation;
  json["tokens_per_second"] = result.tokens_per_second;
  json["checkpoint_stall_seconds"] = result.checkpoint_stall_seconds;
  json["efficiency"] = result.efficiency;
  for (const data::SourceProgress& source : result.data) {
    json["data"].push_back(
        {{"path", source.path}, {"epochs", source.epochs}, {"tokens", source.tokens}});
  }
  json["parameters"] = job.parameters;
  json["config_digest"] = config.config_digest;
  json["spec"] = nlohmann::ordered_json::parse(spec_json, nullptr, /*allow_exceptions=*/false);
  return json.dump(2) + "\n";
}

}  // namespace

void RequestStop() { stop_requested = true; }

absl::StatusOr<StandaloneEnd> RunStandalone(const StandaloneOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(const spec::ResolvedJob job, LoadSpec(options));
  for (const std::string& warning : job.warnings) NIBBLE_LOG(kWarning, warning);
  NIBBLE_ASSIGN_OR_RETURN(const std::string out, AbsolutePath(options.out_directory));
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<RunDirectory> directory, RunDirectory::Open(out));
  TrainerPlaces places;
  NIBBLE_ASSIGN_OR_RETURN(places.data_directory, AbsolutePath(options.data_directory));
  places.output_directory = directory->checkpoints_directory();
  NIBBLE_ASSIGN_OR_RETURN(trainer::TrainingConfig config,
                          MakeTrainingConfig(job.spec, job.precision, places));
  if (options.resume == "auto") {
    NIBBLE_ASSIGN_OR_RETURN(const ResumePoint resume, directory->NewestCheckpoint());
    config.resume_from = resume.path;
    config.resume_digest = resume.digest;
  } else {
    NIBBLE_ASSIGN_OR_RETURN(config.resume_from, AbsolutePath(options.resume));
  }
  NIBBLE_ASSIGN_OR_RETURN(config.faults, PlantedFaults());
  FileObserver observer(config, job.spec.checkpoint().keep(), *directory);
  NIBBLE_ASSIGN_OR_RETURN(const trainer::RunResult result, trainer::RunTraining(config, observer));
  if (!result.pause_cause.empty()) {
    NIBBLE_LOG(kWarning, absl::StrCat("paused (", result.pause_cause, "): ", result.pause_message));
  }
  if (result.paused) {
    NIBBLE_LOG(kInfo, absl::StrCat("stopped after step ", result.steps, "; start again to go on"));
    return StandaloneEnd::kStopped;
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::string json, ResultJson(result, job, config));
  NIBBLE_RETURN_IF_ERROR(directory->WriteResult(json));
  if (config.steps == 0) {
    NIBBLE_LOG(kInfo, absl::StrCat("done: ", result.evaluation.size(), " scores"));
    return StandaloneEnd::kFinished;
  }
  NIBBLE_LOG(kInfo, absl::StrFormat("done: %d steps, train loss %.4f, %.0f tokens/s, digest %s",
                                    result.steps, result.train_loss, result.tokens_per_second,
                                    result.digest));
  return StandaloneEnd::kFinished;
}

}  // namespace nibble::worker
