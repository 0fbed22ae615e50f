#include "server/scheduler/scheduler.h"

#include <utility>

#include "server/scheduler/machine.h"

namespace nibble::scheduler {

Scheduler::Scheduler(SchedulerOptions options)
    : machine_(std::make_unique<Machine>(std::move(options))) {}

Scheduler::~Scheduler() = default;

std::vector<Effect> Scheduler::Step(Event event) { return machine_->Step(std::move(event)); }

const JobRecord* Scheduler::FindJob(absl::string_view job_id) const {
  return machine_->FindJob(job_id);
}

Error Scheduler::CheckAttempt(absl::string_view worker_id, absl::string_view incarnation,
                              const AttemptId& attempt) const {
  return machine_->CheckAttempt(worker_id, incarnation, attempt);
}

std::vector<WorkerInfo> Scheduler::Workers() const { return machine_->Workers(); }

SchedulerStats Scheduler::Stats() const { return machine_->Stats(); }

std::vector<ProjectInfo> Scheduler::Projects() const { return machine_->Projects(); }

std::optional<Explanation> Scheduler::Explain(absl::string_view job_id, Time now) const {
  return machine_->Explain(job_id, now);
}

const std::optional<Reservation>& Scheduler::reservation() const { return machine_->reservation(); }

int64_t Scheduler::clock_nanos() const { return machine_->clock_nanos(); }

const ResourceTracker& Scheduler::resources() const { return machine_->resources(); }

std::vector<const JobRecord*> Scheduler::LiveJobs() const { return machine_->LiveJobs(); }

}  // namespace nibble::scheduler
