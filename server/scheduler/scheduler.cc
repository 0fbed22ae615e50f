#include "server/scheduler/scheduler.h"

#include <utility>

#include "server/scheduler/machine.h"

namespace nibble::scheduler {

Scheduler::Scheduler(SchedulerOptions options, std::unique_ptr<SchedulingPolicy> policy)
    : machine_(std::make_unique<Machine>(options, std::move(policy))) {}

Scheduler::~Scheduler() = default;

std::vector<Effect> Scheduler::Step(const Event& event) { return machine_->Step(event); }

const JobRecord* Scheduler::FindJob(absl::string_view job_id) const {
  return machine_->FindJob(job_id);
}

Error Scheduler::CheckAttempt(absl::string_view worker_id, absl::string_view incarnation,
                              const AttemptId& attempt) const {
  return machine_->CheckAttempt(worker_id, incarnation, attempt);
}

std::vector<WorkerInfo> Scheduler::Workers() const { return machine_->Workers(); }

SchedulerStats Scheduler::Stats() const { return machine_->Stats(); }

const ResourceTracker& Scheduler::resources() const { return machine_->resources(); }

std::vector<const JobRecord*> Scheduler::LiveJobs() const { return machine_->LiveJobs(); }

}  // namespace nibble::scheduler
