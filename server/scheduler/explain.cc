// Why a job waits: the same questions that scheduling asks, answered in words.
#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/scheduler/explanation.h"
#include "server/scheduler/machine.h"

namespace nibble::scheduler {
namespace {

std::string Plural(int64_t count, absl::string_view noun) {
  return absl::StrCat(count, " ", noun, count == 1 ? "" : "s");
}

}  // namespace

absl::string_view BlockingCodeName(BlockingCode code) {
  switch (code) {
    case BlockingCode::kPaused:
      return "JOB_PAUSED";
    case BlockingCode::kBackingOff:
      return "BACKING_OFF";
    case BlockingCode::kNoWorkers:
      return "NO_WORKERS";
    case BlockingCode::kWorkersClosed:
      return "WORKERS_CLOSED";
    case BlockingCode::kNoMatchingWorker:
      return "NO_MATCHING_WORKER";
    case BlockingCode::kTooWide:
      return "TOO_WIDE";
    case BlockingCode::kProjectLimit:
      return "PROJECT_LIMIT";
    case BlockingCode::kBehindOthers:
      return "BEHIND_OTHERS";
    case BlockingCode::kSlotsBusy:
      return "SLOTS_BUSY";
    case BlockingCode::kReserved:
      return "SLOTS_RESERVED";
    case BlockingCode::kMakingRoom:
      return "MAKING_ROOM";
    case BlockingCode::kWorkerExcluded:
      return "WORKER_EXCLUDED";
  }
  return "UNKNOWN";
}

int64_t Scheduler::Machine::JobsAhead(const QueuedJob& job, std::string* first) const {
  const auto rank_of = [this](int project, int32_t slots) {
    return std::make_tuple(shares_.Borrows(project, slots), shares_.Rank(project, clock_nanos()),
                           project);
  };
  const auto mine = rank_of(job.project, job.slots);
  const RunQueue::Order order = RunQueue::OrderOf(job);
  int64_t ahead = 0;
  std::tuple<decltype(rank_of(0, 0)), RunQueue::Order> best;
  for (const auto& [key, shape] : queue_.shapes()) {
    const auto rank = rank_of(std::get<0>(key), std::get<1>(key));
    if (mine < rank || shares_.ExceedsLimit(std::get<0>(key), std::get<1>(key))) continue;
    const auto end = rank < mine ? shape.ready.end() : shape.ready.lower_bound(order);
    const int64_t here = std::distance(shape.ready.begin(), end);
    if (here == 0) continue;
    const auto candidate = std::make_tuple(rank, shape.ready.begin()->first);
    if (ahead == 0 || candidate < best) {
      best = candidate;
      *first = queue_.First(shape).job_id();
    }
    ahead += here;
  }
  return ahead;
}

// Whether workers there are, and are open, and suit. False where that is what stands in the way.
bool Scheduler::Machine::ExplainWorkers(const QueuedJob& job,
                                        std::vector<BlockingReason>& reasons) const {
  int64_t registered = 0, matching = 0, matching_slots = 0;
  std::vector<std::string> closed;
  for (const auto& [worker_id, worker] : workers_) {
    if (!worker.registered) continue;
    ++registered;
    if (!Matches(worker, job, Capacity())) continue;
    ++matching;
    matching_slots += worker.info.slots;
    if (IsOpen(worker)) continue;
    const auto record = worker_records_.find(worker_id);
    const bool drained = record != worker_records_.end() && record->second.drained;
    closed.push_back(absl::StrCat(worker_id, drained         ? " (drained)"
                                             : worker.online ? " (shutting down)"
                                                             : " (unreachable)"));
  }
  const Capacity& capacity = CapacityFor(job);
  if (capacity.Fits(job.slots)) return true;
  if (registered == 0) {
    reasons.push_back({BlockingCode::kNoWorkers, "no worker is registered"});
  } else if (matching == 0) {
    reasons.push_back(
        {BlockingCode::kNoMatchingWorker, absl::StrCat("none of ", Plural(registered, "worker"),
                                                       " satisfies scheduling.constraints")});
  } else if (job.slots <= matching_slots) {
    if (closed.size() > 8) closed.resize(8);
    reasons.push_back(
        {BlockingCode::kWorkersClosed, absl::StrCat("workers that could run it take no new work: ",
                                                    absl::StrJoin(closed, ", "))});
  } else {
    reasons.push_back(
        {BlockingCode::kTooWide, absl::StrCat("it asks for ", Plural(job.slots, "slot"),
                                              "; all matching workers have ", matching_slots)});
  }
  return false;
}

void Scheduler::Machine::ExplainSlots(const QueuedJob& job, Explanation& explanation) const {
  const Capacity& capacity = CapacityFor(job);
  int64_t free = 0;
  for (const WorkerOutlook& worker : Outlooks(job, /*only_ending=*/false)) {
    free += worker.free;
    for (const auto& [attempt, slots] : tracker_.Find(worker.worker_id)->holders) {
      if (explanation.holders.size() >= kMaxHolders) break;
      SlotHolder& holder = explanation.holders.emplace_back();
      holder.job_id = attempt.job_id;
      holder.attempt = attempt.attempt;
      holder.worker_id = worker.worker_id;
      holder.slots = slots;
      const JobRecord* const live = FindJob(attempt.job_id);
      if (live != nullptr) holder.project = live->document->project;
      const int64_t end = EndOf(attempt);
      if (end != kNever) holder.remaining_nanos = std::max<int64_t>(end - clock_nanos(), 0);
    }
  }
  if (!capacity.avoided.empty()) {
    explanation.reasons.push_back(
        {BlockingCode::kWorkerExcluded, absl::StrCat("it avoids workers where it failed: ",
                                                     absl::StrJoin(capacity.avoided, ", "))});
  }
  std::string first;
  const int64_t ahead = JobsAhead(job, &first);
  if (ahead > 0) {
    explanation.reasons.push_back(
        {BlockingCode::kBehindOthers,
         absl::StrCat(Plural(ahead, "job"), " go first, the next of them ", first)});
  }
  const std::string wants =
      absl::StrCat("it needs ", Plural(job.slots, "slot"),
                   capacity.Spreads(job.slots) ? " in all; " : " of one worker; ", free,
                   " of all matching workers' are free");
  const bool mine = reservation_.has_value() && reservation_->job_id == job.job_id();
  if (mine && reservation_->preempting) {
    explanation.reasons.push_back(
        {BlockingCode::kMakingRoom, "jobs were told to checkpoint and give it their slots"});
  } else if (!mine && reservation_.has_value() && free >= job.slots) {
    explanation.reasons.push_back(
        {BlockingCode::kReserved,
         absl::StrCat("free slots are kept for job ", reservation_->job_id,
                      job.max_run_nanos == 0
                          ? "; without scheduling.max_run_time it cannot run in the gap"
                          : "; it could be in the way when that job starts")});
  } else {
    explanation.reasons.push_back({BlockingCode::kSlotsBusy, wants});
  }
  int64_t start = kNever;
  if (mine) {
    start = reservation_->start_nanos;
  } else if (ahead == 0 && !reservation_.has_value()) {
    const auto plan = PlanReservation(job.slots, capacity.Spreads(job.slots),
                                      Outlooks(job, /*only_ending=*/false), clock_nanos());
    if (plan.has_value()) start = plan->start_nanos;
  }
  if (start != kNever) {
    explanation.start_in_nanos = std::max<int64_t>(start - clock_nanos(), 0);
  }
}

std::optional<Explanation> Scheduler::Machine::Explain(absl::string_view job_id, Time now) const {
  const JobRecord* const live = FindJob(job_id);
  if (live == nullptr) return std::nullopt;
  Explanation explanation;
  const JobRecord& record = *live;
  explanation.job = record;
  explanation.wall_micros = now.wall_micros;
  if (record.state == JobState::kPaused) {
    explanation.reasons.push_back(
        {BlockingCode::kPaused,
         absl::StrCat("it is paused until somebody resumes it; ", record.reason_message)});
  }
  const QueuedJob* const job = queue_.Find(record.job_id);
  if (job == nullptr) return explanation;
  if (!queue_.IsReady(record.job_id)) {
    const int64_t left =
        std::max<int64_t>(queue_.NotBefore(record.job_id) - now.monotonic_nanos, 0);
    explanation.reasons.push_back(
        {BlockingCode::kBackingOff,
         absl::StrCat("it waits another ", static_cast<double>(left / 100'000'000) / 10,
                      " s before attempt ", record.attempt + 1, ": ", record.reason_message)});
  }
  if (!ExplainWorkers(*job, explanation.reasons)) return explanation;
  if (shares_.ExceedsLimit(job->project, job->slots)) {
    const ProjectOptions& project = shares_.options(job->project);
    explanation.reasons.push_back(
        {BlockingCode::kProjectLimit,
         absl::StrCat("project ", project.name, " holds ", shares_.held(job->project), " of the ",
                      Plural(*project.limit_slots, "slot"), " that it may hold")});
  }
  ExplainSlots(*job, explanation);
  return explanation;
}

std::vector<ProjectInfo> Scheduler::Machine::Projects() const {
  std::vector<ProjectInfo> infos(shares_.size());
  for (int project = 0; project < shares_.size(); ++project) {
    ProjectInfo& info = infos[project];
    info.options = shares_.options(project);
    info.held = shares_.held(project);
    info.slot_seconds = shares_.Usage(project, clock_nanos());
    if (project < static_cast<int>(jobs_of_project_.size())) {
      info.unfinished = jobs_of_project_[project];
    }
  }
  jobs_.Visit([&infos](const LiveJob& job) {
    if (job.record.state == JobState::kQueued) ++infos[job.project].queued;
  });
  std::sort(infos.begin(), infos.end(),
            [](const auto& a, const auto& b) { return a.options.name < b.options.name; });
  return infos;
}

}  // namespace nibble::scheduler
