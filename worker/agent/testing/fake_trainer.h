// Trainer processes that exist only in a test, which scripts them.
#ifndef WORKER_AGENT_TESTING_FAKE_TRAINER_H_
#define WORKER_AGENT_TESTING_FAKE_TRAINER_H_

#include <csignal>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/agent/trainer_process.h"

namespace nibble::agent {

// What a test sees of one fake process; outlives it.
struct FakeTrainer {
  LaunchRequest request;
  std::function<void()> notify;
  std::vector<v1::TrainerCommand> commands;
  std::vector<int> signals;
  std::deque<v1::TrainerReport> reports;
  std::deque<LogEntry> logs;
  std::optional<TrainerExit> exit;
  bool dies_of_sigkill = true;  // else only when the test says so
  int dumps = 0;                // of its stacks
  int64_t sequence = 0;         // of the last metric row

  void Report(v1::TrainerReport report) {
    reports.push_back(std::move(report));
    notify();
  }
  void Started(int64_t step = 0) {
    v1::TrainerReport report;
    report.mutable_started()->set_step(step);
    Report(std::move(report));
  }
  void Step(int64_t step) {
    v1::TrainerReport report;
    report.mutable_metrics()->set_sequence(++sequence);
    report.mutable_metrics()->set_step(step);
    (*report.mutable_metrics()->mutable_values())["loss"] = 1.0 / step;
    Report(std::move(report));
  }
  void Steps(int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; ++step) Step(step);
  }
  void Checkpoint(int64_t step) {
    v1::TrainerReport report;
    v1::CheckpointWritten* written = report.mutable_checkpoint();
    written->set_step(step);
    written->set_path(absl::StrCat(request.start.output_directory(), "/step-", step));
    written->set_manifest_digest("d");
    written->set_metric_sequence(sequence);
    Report(std::move(report));
  }
  void Paused(int64_t step) {
    v1::TrainerReport report;
    report.mutable_paused()->set_step(step);
    Report(std::move(report));
  }
  void Succeeded(int64_t steps) {
    v1::TrainerReport report;
    report.mutable_succeeded()->mutable_result()->set_steps(steps);
    Report(std::move(report));
  }
  void Failed(v1::FailureClass failure_class, const std::string& message) {
    v1::TrainerReport report;
    report.mutable_failed()->set_failure_class(failure_class);
    report.mutable_failed()->set_message(message);
    Report(std::move(report));
  }
  void Print(const std::string& line) {
    logs.push_back({0, line});
    notify();
  }
  void Exit(int code) {
    if (exit.has_value()) return;
    exit = TrainerExit();
    exit->exit_code = code;
    notify();
  }
  void Die(int signal) {
    if (exit.has_value()) return;
    exit = TrainerExit();
    exit->signal = signal;
    notify();
  }
  bool was_told_to_pause() const {
    for (const v1::TrainerCommand& command : commands) {
      if (command.has_pause()) return true;
    }
    return false;
  }
  bool was_killed() const {
    for (const int signal : signals) {
      if (signal == SIGKILL) return true;
    }
    return false;
  }
};

class FakeTrainerProcess : public TrainerProcess {
 public:
  explicit FakeTrainerProcess(std::shared_ptr<FakeTrainer> trainer)
      : trainer_(std::move(trainer)) {}
  void Send(const v1::TrainerCommand& command) override { trainer_->commands.push_back(command); }
  std::vector<v1::TrainerReport> TakeReports(size_t max) override {
    return Take(max, &trainer_->reports);
  }
  std::vector<LogEntry> TakeLogs(size_t max) override { return Take(max, &trainer_->logs); }
  std::string DumpStacks() override {
    ++trainer_->dumps;
    return "stopped by a signal";
  }
  void Signal(int signal) override {
    trainer_->signals.push_back(signal);
    if (signal == SIGKILL && trainer_->dies_of_sigkill) trainer_->Die(SIGKILL);
  }
  std::optional<TrainerExit> exit() override { return trainer_->exit; }

 private:
  template <typename T>
  static std::vector<T> Take(size_t max, std::deque<T>* from) {
    std::vector<T> taken;
    while (!from->empty() && taken.size() < max) {
      taken.push_back(std::move(from->front()));
      from->pop_front();
    }
    return taken;
  }

  const std::shared_ptr<FakeTrainer> trainer_;
};

class FakeLauncher : public TrainerLauncher {
 public:
  std::shared_ptr<snapshot::TrainerMemory> MakeMemory() override {
    if (!with_memory) return nullptr;
    auto memory = snapshot::TrainerMemory::Create();
    return memory.ok() ? *std::move(memory) : nullptr;
  }
  std::unique_ptr<TrainerProcess> Launch(const LaunchRequest& request,
                                         std::function<void()> notify) override {
    auto trainer = std::make_shared<FakeTrainer>();
    trainer->request = request;
    trainer->notify = std::move(notify);
    trainer->sequence = request.start.metric_sequence();
    trainers.push_back(trainer);
    return std::make_unique<FakeTrainerProcess>(trainer);
  }

  std::vector<std::shared_ptr<FakeTrainer>> trainers;  // in order of launch
  bool with_memory = false;
};

}  // namespace nibble::agent

#endif  // WORKER_AGENT_TESTING_FAKE_TRAINER_H_
