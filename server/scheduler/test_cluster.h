// A World with workers whose trainers do as they are told, for stories of jobs that want the same
// slots.
#ifndef SERVER_SCHEDULER_TEST_CLUSTER_H_
#define SERVER_SCHEDULER_TEST_CLUSTER_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "server/scheduler/test_world.h"

namespace nibble::scheduler {

inline constexpr int64_t kSecond = 1'000'000'000;

// Workers whose trainers do as they are told: train for a while, commit as they go, pause at once.
class Cluster {
 public:
  // Checking every step costs as much as all jobs so far.
  explicit Cluster(SchedulerOptions options = {}, bool checked = true)
      : world_(std::move(options), checked) {}

  void AddWorker(const std::string& worker, int32_t slots) {
    workers_.push_back(worker);
    world_.Register(worker, slots);
  }
  // It trains for `seconds`; 0 for ever.
  std::string Submit(JobDocument document, int64_t seconds) {
    document.total_steps = 1'000'000;
    const std::string job = world_.Submit(std::move(document));
    lengths_[job] = seconds;
    return job;
  }
  // A second passes.
  void Second() {
    world_.Advance(kSecond);
    for (const std::string& worker : workers_) Serve(worker);
  }
  void Seconds(int64_t count) {
    for (int64_t i = 0; i < count; ++i) Second();
  }
  void Serve(const std::string& worker) {
    const AssignmentsChanged list = world_.list(worker);
    std::vector<AttemptId> held;
    for (const Assignment& a : list.assignments) held.push_back(a.attempt);
    world_.Renew(worker, held);
    for (const Assignment& a : list.assignments) Train(worker, a);
  }
  World& world() { return world_; }
  int64_t trained(const std::string& job) const {
    const auto found = trained_.find(job);
    return found == trained_.end() ? 0 : found->second;
  }
  // Slot-seconds that jobs of the project trained.
  std::map<std::string, double> by_project;
  // Trainers that do not hear.
  bool deaf = false;
  int64_t commit_interval = 10;

 private:
  void Train(const std::string& worker, const Assignment& a) {
    const std::string& job = a.attempt.job_id;
    const bool leader = a.placement.front().worker_id == worker;
    if (a.action != AssignmentAction::kRun) {
      if (deaf && a.action == AssignmentAction::kPause) return;
      if (a.action == AssignmentAction::kPause && leader && trained_[job] > 0) {
        world_.Commit(worker, a.attempt, trained_[job]);
      }
      const bool pause = a.action == AssignmentAction::kPause;
      world_.Report(worker, a.attempt, pause ? AttemptStatus::kPaused : AttemptStatus::kStopped);
      return;
    }
    if (!leader) return;
    if (world_.state(job) == JobState::kStarting) {
      trained_[job] = a.resume_from.has_value() ? a.resume_from->step : 0;
      world_.Report(worker, a.attempt, AttemptStatus::kTraining);
    }
    ++trained_[job];
    by_project[a.document->project] += a.document->slots;
    if (lengths_[job] > 0 && trained_[job] >= lengths_[job]) {
      world_.Report(worker, a.attempt, AttemptStatus::kSucceeded);
    } else if (trained_[job] % commit_interval == 0) {
      world_.Commit(worker, a.attempt, trained_[job]);
    }
  }

  World world_;
  std::vector<std::string> workers_;
  std::map<std::string, int64_t> lengths_;
  std::map<std::string, int64_t> trained_;
};

inline JobDocument Wants(int32_t slots, const std::string& project = kDefaultProject,
                         int64_t max_run_seconds = 0, int32_t priority = 0) {
  JobDocument document;
  document.slots = slots;
  document.project = project;
  document.max_run_nanos = max_run_seconds * kSecond;
  document.priority = priority;
  return document;
}

inline SchedulerOptions WithProjects(std::vector<ProjectOptions> projects) {
  SchedulerOptions options;
  options.projects = std::move(projects);
  return options;
}

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_TEST_CLUSTER_H_
