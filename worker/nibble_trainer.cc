// nibble-trainer: one rank of a training run. A worker starts it with --link-fd and tells it what
// to train; with --spec and --out it runs alone.

#include <csignal>
#include <iostream>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_replace.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/status_macros.h"
#include "base/version.h"
#include "worker/link/link_observer.h"
#include "worker/snapshot/trainer_memory.h"
#include "worker/stack_dump.h"
#include "worker/standalone_run.h"
#include "worker/trainer/training_run.h"
#include "worker/trainer_config.h"

namespace {

enum ExitCode { kDone = 0, kFailed = 1, kUsage = 2, kStopped = 3 };

constexpr char kFooter[] = R"(
Writes into the output directory: metrics.jsonl (one JSON object a step), checkpoints/step-<N>, and
at the end result.json with "digest", the SHA-256 over weights and optimiser state. Started again
with the same output directory, it goes on from the newest whole checkpoint.

SIGINT and SIGTERM: finish the step, write a checkpoint, exit 3. SIGUSR1: print the stacks of all
threads.

Exit codes: 0 trained to the end (or, under a worker, paused); 1 failed; 2 wrong arguments or spec;
3 stopped by a signal, with a checkpoint.

Example:
  nibble-trainer --spec deploy/examples/tiny.yaml --out /tmp/run --data-dir ~/.local/share/nibble/data
)";

int Fail(const absl::Status& status, int code) {
  std::cerr << "nibble-trainer: "
            << nibble::EscapeControlCharacters(
                   absl::StrReplaceAll(status.message(), {{"\n", "; "}}))
            << " (" << absl::StatusCodeToString(status.code()) << ")\n";
  return code;
}

absl::StatusOr<nibble::trainer::RunResult> TrainLinked(nibble::link::LinkObserver& observer,
                                                       nibble::snapshot::TrainerMemory* memory) {
  NIBBLE_ASSIGN_OR_RETURN(const nibble::v1::StartTraining start, observer.WaitForStart());
  nibble::worker::TrainerPlaces places;
  places.data_directory = start.data_directory();
  places.output_directory = start.output_directory();
  NIBBLE_ASSIGN_OR_RETURN(
      nibble::trainer::TrainingConfig config,
      nibble::worker::MakeTrainingConfig(start.spec(), start.precision(), places));
  NIBBLE_ASSIGN_OR_RETURN(config.faults, nibble::worker::PlantedFaults());
  if (start.has_resume_from()) {
    config.resume_from = start.resume_from().path();
    config.resume_digest = start.resume_from().manifest_digest();
    config.resume_step = start.resume_from().step();
  }
  for (const nibble::v1::Checkpoint& older : start.fallbacks()) {
    config.fallbacks.push_back({older.path(), older.manifest_digest(), older.step()});
  }
  return nibble::trainer::RunTraining(config, observer, memory);
}

int RunLinked(int fd, int memory_fd) {
  auto observer = nibble::link::LinkObserver::Connect(fd);
  if (!observer.ok()) return Fail(observer.status(), kUsage);
  std::unique_ptr<nibble::snapshot::TrainerMemory> memory;
  if (memory_fd >= 0) {
    auto opened = nibble::snapshot::TrainerMemory::Open(memory_fd);
    if (!opened.ok()) return Fail(opened.status(), kUsage);
    memory = *std::move(opened);
  }
  const absl::Status status = (*observer)->Finish(TrainLinked(**observer, memory.get()));
  return status.ok() ? kDone : Fail(status, kFailed);
}

int RunAlone(const nibble::worker::StandaloneOptions& options) {
  struct sigaction action = {};
  action.sa_handler = [](int) { nibble::worker::RequestStop(); };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  const auto end = nibble::worker::RunStandalone(options);
  if (absl::IsInvalidArgument(end.status())) return Fail(end.status(), kUsage);
  if (!end.ok()) return Fail(end.status(), kFailed);
  return *end == nibble::worker::StandaloneEnd::kStopped ? kStopped : kDone;
}

}  // namespace

int main(int argc, char** argv) {
  nibble::worker::DumpStacksOnSignal(argv[0]);
  CLI::App app{"Trains a language model from a job spec.", "nibble-trainer"};
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("nibble-trainer ") + nibble::kVersion + " (" +
                                        nibble::kCommit + ")");
  nibble::worker::StandaloneOptions options;
  options.data_directory = nibble::DefaultDataDirectory();
  int link_fd = -1;
  int memory_fd = -1;
  app.add_option("--spec", options.spec_file, "Job spec: YAML, .json or .textproto");
  app.add_option("--out", options.out_directory, "Output directory; made where it is missing");
  app.add_option("--steps", options.steps, "Steps to train, instead of the spec's")
      ->check(CLI::PositiveNumber);
  app.add_option("--backend", options.backend, "Backend, instead of the spec's")
      ->check(CLI::IsMember({"cpu", "reference", "cuda"}));
  app.add_option("--threads", options.threads,
                 "Compute threads, instead of the spec's; 0: all processors")
      ->check(CLI::Range(0, 4096));
  app.add_option("--data-dir", options.data_directory, "Directory of relative data paths")
      ->capture_default_str();
  app.add_option("--resume", options.resume, "Checkpoint directory to go on from, or auto")
      ->capture_default_str();
  app.add_option("--link-fd", link_fd, "Connected socket of the worker that started it")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--memory-fd", memory_fd, "Memory that the worker holds for this trainer")
      ->check(CLI::NonNegativeNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kUsage;
  }
  if (link_fd >= 0) return RunLinked(link_fd, memory_fd);
  if (options.spec_file.empty() || options.out_directory.empty()) {
    return Fail(absl::InvalidArgumentError("--spec and --out are required; see --help"), kUsage);
  }
  return RunAlone(options);
}
