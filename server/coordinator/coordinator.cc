#include "server/coordinator/coordinator.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/planted.h"
#include "base/status_macros.h"

namespace nibble::coordinator {

using scheduler::Effect;
using scheduler::Event;
using scheduler::Transaction;

// What one commit carries: the steps' transactions merged, their later effects in order, and who
// waits for them.
struct Coordinator::Group {
  struct Waiter {
    OutcomeCallback callback;
    // Of a registration.
    std::string worker_id;
    std::string incarnation;
  };
  Transaction transaction;
  int64_t transactions = 0;  // merged into it
  std::vector<Effect> effects;
  std::map<uint64_t, Waiter> waiting;                        // by request_token
  std::vector<std::pair<OutcomeCallback, Outcome>> answers;  // of items that were not stepped
  uint64_t last_token = 0;
};

namespace {

Outcome Refusal(absl::Status status, std::string reason) {
  return Outcome{std::move(status), std::move(reason), {}};
}

Outcome DiskFull() {
  return Refusal(absl::ResourceExhaustedError("the disk of the state directory is full"),
                 "DISK_FULL");
}

absl::string_view AlertName(scheduler::AlertKind kind) {
  switch (kind) {
    case scheduler::AlertKind::kMassExpiryHeld:
      return "mass_expiry_held";
    case scheduler::AlertKind::kDaemonStalled:
      return "daemon_stalled";
    case scheduler::AlertKind::kOverAllocated:
      return "over_allocated";
    case scheduler::AlertKind::kLemonWorker:
      return "lemon_worker";
  }
  return "unknown";
}

}  // namespace

Coordinator::Coordinator(CoordinatorOptions options, CoordinatorParts parts)
    : options_(options), parts_(std::move(parts)), gauges_(parts_.telemetry, parts_.recipe_of) {}

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(CoordinatorOptions options,
                                                                CoordinatorParts parts) {
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<Coordinator> coordinator,
                          StartWithoutThread(std::move(options), std::move(parts)));
  coordinator->thread_ = std::thread([raw = coordinator.get()] { raw->Run(); });
  return coordinator;
}

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::StartWithoutThread(
    CoordinatorOptions options, CoordinatorParts parts) {
  auto coordinator =
      std::unique_ptr<Coordinator>(new Coordinator(std::move(options), std::move(parts)));
  NIBBLE_RETURN_IF_ERROR(coordinator->Recover());
  return coordinator;
}

Coordinator::~Coordinator() { Stop(); }

scheduler::Time Coordinator::Now() const {
  return {parts_.clock->MonotonicNanos(), parts_.clock->WallMicros()};
}

absl::Status Coordinator::Recover() {
  NIBBLE_ASSIGN_OR_RETURN(store::LiveState live, parts_.store->LoadLive());
  for (const store::CorruptRow& row : live.corrupt) {
    NIBBLE_LOG(kError,
               absl::StrCat("a damaged row is left out: table ", row.table, ", key ", row.key));
  }
  gauges_.Recovered(live.recovered, parts_.clock->MonotonicNanos());
  Group group;
  {
    MutexLock lock(queue_mutex_);
    last_event_id_ = live.recovered.last_event_id;
  }
  {
    MutexLock lock(scheduler_mutex_);
    scheduler_ = std::make_unique<scheduler::Scheduler>(options_.scheduler);
  }
  Item item;
  item.body = std::move(live.recovered);
  StepItem(std::move(item), &group);
  NIBBLE_RETURN_IF_ERROR(Commit(group));
  CarryOut(&group);
  counts_changed_ = true;
  RefreshCounts();
  return absl::OkStatus();
}

void Coordinator::Post(scheduler::EventBody body, OutcomeCallback callback) {
  Item item;
  item.body = std::move(body);
  item.callback = std::move(callback);
  Enqueue(std::move(item));
}

void Coordinator::CheckAttempt(const std::string& worker_id, const std::string& incarnation,
                               const scheduler::AttemptId& attempt, OutcomeCallback callback) {
  auto check = [worker_id, incarnation, attempt](const scheduler::Scheduler& scheduler) {
    return scheduler.CheckAttempt(worker_id, incarnation, attempt);
  };
  scheduler::Error error;
  {
    MutexLock lock(scheduler_mutex_);
    error = check(*scheduler_);
  }
  if (error.ok() || NIBBLE_PLANTED("append_unchecked")) return callback(Outcome{});
  // The scheduler may be ahead of the store here, and a refusal kills a trainer: ask again in the
  // coordinator's thread, which answers after its commit.
  Item item;
  item.check = std::move(check);
  item.callback = std::move(callback);
  Enqueue(std::move(item));
}

void Coordinator::Enqueue(Item item) {
  Outcome refusal;
  {
    MutexLock lock(queue_mutex_);
    if (stopping_) {
      refusal = Refusal(absl::UnavailableError("the daemon is shutting down"), "SHUTTING_DOWN");
    } else if (queue_.size() >= options_.max_waiting) {
      refusal = Refusal(absl::ResourceExhaustedError("too many requests wait; try again later"),
                        "OVERLOADED");
    } else {
      queue_.push_back(std::move(item));
      wake_.Signal();
      return;
    }
  }
  if (item.callback != nullptr) item.callback(refusal);
}

std::vector<scheduler::WorkerInfo> Coordinator::Workers() const {
  MutexLock lock(scheduler_mutex_);
  return scheduler_->Workers();
}

std::vector<scheduler::ProjectInfo> Coordinator::Projects() const {
  MutexLock lock(scheduler_mutex_);
  return scheduler_->Projects();
}

std::optional<scheduler::Explanation> Coordinator::Explain(const std::string& job_id) const {
  MutexLock lock(scheduler_mutex_);
  return scheduler_->Explain(job_id, Now());
}

int64_t Coordinator::last_event_id() const {
  MutexLock lock(queue_mutex_);
  return last_event_id_;
}

void Coordinator::Stop() {
  {
    MutexLock lock(queue_mutex_);
    stopping_ = true;
    wake_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

// Waits for events, the next tick or the end.
void Coordinator::WaitForItems() {
  MutexLock lock(queue_mutex_);
  for (;;) {
    const int64_t wait_nanos = next_tick_nanos_ - parts_.clock->MonotonicNanos();
    if (!queue_.empty() || stopping_ || wait_nanos <= 0) break;
    // An injected clock may stand still or jump: look again after a tick of real time.
    wake_.WaitForNanos(queue_mutex_, std::min(wait_nanos, options_.tick_nanos));
  }
}

// What can be done now. Empty where there is nothing, and once stopped and drained.
std::vector<Coordinator::Item> Coordinator::TakeItems() {
  std::vector<Item> items;
  MutexLock lock(queue_mutex_);
  while (!queue_.empty() && items.size() < options_.max_group) {
    items.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  if (items.empty() && stopping_) return items;
  if (parts_.clock->MonotonicNanos() >= next_tick_nanos_) {
    next_tick_nanos_ = parts_.clock->MonotonicNanos() + options_.tick_nanos;
    Item tick;
    tick.body = scheduler::Tick();
    counts_changed_ = true;  // time alone makes workers unreachable
    items.push_back(std::move(tick));
  }
  return items;
}

void Coordinator::Run() {
  for (;;) {
    WaitForItems();
    std::vector<Item> items = TakeItems();
    if (items.empty()) return;  // it waited for something, unless it stops
    RunGroup(std::move(items));
  }
}

void Coordinator::RunPending() {
  NIBBLE_CHECK(!thread_.joinable());
  for (std::vector<Item> items = TakeItems(); !items.empty(); items = TakeItems()) {
    RunGroup(std::move(items));
  }
}

void Coordinator::RunGroup(std::vector<Item> items) {
  Group group;
  for (Item& item : items) StepItem(std::move(item), &group);
  const bool early = NIBBLE_PLANTED("acknowledge_before_commit");
  if (early) CarryOut(&group);
  const absl::Status committed =
      failed_ ? absl::UnavailableError("the store failed") : Commit(group);
  if (!committed.ok()) return Fail(committed, &group);
  if (!early) CarryOut(&group);
  RefreshCounts();
}

void Coordinator::StepItem(Item item, Group* group) {
  if (item.check != nullptr) {
    Outcome outcome;
    {
      MutexLock lock(scheduler_mutex_);
      outcome.reply.error = item.check(*scheduler_);
    }
    group->answers.emplace_back(std::move(item.callback), std::move(outcome));
    return;
  }
  Event event;
  event.body = std::move(item.body);
  Outcome refusal = Refusal(LoadStoredRows(&event, *group), "");
  if (refusal.status.ok() && std::holds_alternative<scheduler::JobSubmitted>(event.body) &&
      parts_.clock->MonotonicNanos() < disk_full_until_nanos_) {
    refusal = DiskFull();
  }
  if (!refusal.status.ok()) {
    if (item.callback) group->answers.emplace_back(std::move(item.callback), std::move(refusal));
    return;
  }
  if (item.callback != nullptr) {
    event.request_token = ++group->last_token;
    Group::Waiter& waiter = group->waiting[event.request_token];
    waiter.callback = std::move(item.callback);
    if (const auto* registered = std::get_if<scheduler::WorkerRegistered>(&event.body)) {
      waiter.worker_id = registered->worker_id;
      waiter.incarnation = registered->incarnation;
    }
  }
  event.now = Now();
  const int64_t start_nanos = event.now.monotonic_nanos;
  if (parts_.random != nullptr) event.random = parts_.random->Next();
  std::vector<Effect> effects;
  {
    MutexLock lock(scheduler_mutex_);
    effects = scheduler_->Step(std::move(event));
  }
  parts_.telemetry->Scheduled(static_cast<double>(parts_.clock->MonotonicNanos() - start_nanos) *
                              1e-9);
  for (Effect& effect : effects) {
    if (auto* transaction = std::get_if<Transaction>(&effect)) {
      group->transaction.Append(std::move(*transaction));
      ++group->transactions;
    } else {
      group->effects.push_back(std::move(effect));
    }
  }
}

// The rows that the scheduler does not hold: jobs that ended, and keys of their submissions.
absl::Status Coordinator::LoadStoredRows(Event* event, const Group& group) {
  auto* submitted = std::get_if<scheduler::JobSubmitted>(&event->body);
  if (submitted != nullptr) {
    const std::string& key = submitted->document->request_key;
    // A new job_id is random: whether it was ever used is not worth a read.
    if (key.empty()) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(submitted->stored_key, StoredKey(key, group));
    if (!submitted->stored_key.has_value()) return absl::OkStatus();
  }
  const std::string job_id(scheduler::JobIdOf(event->body));
  if (job_id.empty()) return absl::OkStatus();
  {
    MutexLock lock(scheduler_mutex_);
    if (scheduler_->FindJob(job_id) != nullptr) return absl::OkStatus();
  }
  NIBBLE_ASSIGN_OR_RETURN(event->stored_job, StoredJob(job_id, group));
  return absl::OkStatus();
}

// What this group will commit counts as stored.
absl::StatusOr<std::optional<scheduler::IdempotencyRecord>> Coordinator::StoredKey(
    const std::string& key, const Group& group) {
  for (const scheduler::IdempotencyRecord& record : group.transaction.keys) {
    if (record.key == key) return std::optional<scheduler::IdempotencyRecord>(record);
  }
  return parts_.store->FindKey(key);
}

absl::StatusOr<std::shared_ptr<const scheduler::JobRecord>> Coordinator::StoredJob(
    const std::string& job_id, const Group& group) {
  const auto& deleted = group.transaction.deleted_jobs;
  if (std::find(deleted.begin(), deleted.end(), job_id) != deleted.end()) {
    return std::shared_ptr<const scheduler::JobRecord>();
  }
  const auto& jobs = group.transaction.jobs;
  const auto pending = std::find_if(jobs.rbegin(), jobs.rend(),
                                    [&](const auto& job) { return job.job_id == job_id; });
  if (pending != jobs.rend()) return std::make_shared<const scheduler::JobRecord>(*pending);
  absl::StatusOr<scheduler::JobRecord> stored = parts_.store->GetJob(job_id);
  if (absl::IsNotFound(stored.status())) return std::shared_ptr<const scheduler::JobRecord>();
  if (!stored.ok()) return stored.status();
  return std::make_shared<const scheduler::JobRecord>(*std::move(stored));
}

absl::Status Coordinator::Commit(const Group& group) {
  if (group.transaction.empty()) return absl::OkStatus();
  const int64_t start = parts_.clock->MonotonicNanos();
  NIBBLE_RETURN_IF_ERROR(parts_.store->Commit(group.transaction));
  counts_changed_ = true;
  parts_.telemetry->Committed(static_cast<double>(parts_.clock->MonotonicNanos() - start) * 1e-9,
                              group.transactions);
  return absl::OkStatus();
}

void Coordinator::CarryOut(Group* group) {
  if (!group->transaction.events.empty()) {
    MutexLock lock(queue_mutex_);
    last_event_id_ = group->transaction.events.back().event_id;
  }
  for (const scheduler::JobEventRecord& event : group->transaction.events) {
    // Of the three that a guard's pause has, the first is what it found.
    if (event.reason >= scheduler::JobReason::kGuardTripped && event.before == event.after) {
      parts_.telemetry->IncidentNoted(scheduler::JobReasonName(event.reason));
    }
  }
  for (const Effect& effect : group->effects) {
    std::visit([&](const auto& value) { CarryOut(value, group); }, effect);
  }
  for (auto& [callback, outcome] : group->answers) callback(outcome);
}

void Coordinator::CarryOut(const scheduler::Transaction&, Group*) {
  NIBBLE_CHECK(false);  // merged into the group's
}

void Coordinator::CarryOut(const scheduler::AssignmentsChanged& change, Group*) {
  assignments_.Replace(change);
  counts_changed_ = true;
}

void Coordinator::CarryOut(const scheduler::JobChanged& change, Group*) {
  gauges_.Changed(change.job, change.deleted, parts_.clock->MonotonicNanos());
  if (change.deleted) deletions_.Add(change.job.job_id);
  feed_.Publish(JobTopic(change.job.job_id));
  feed_.Publish(kAllJobsTopic);
}

void Coordinator::CarryOut(const scheduler::PurgeMetrics& purge, Group*) {
  const bool taken = parts_.pool->SubmitUnbounded([this, job_id = purge.job_id] {
    const absl::Status deleted = parts_.metric_store->DeleteJob(job_id);
    // Where this failed the purge is still recorded: the next start of the daemon tries again.
    if (deleted.ok()) return Post(scheduler::MetricsPurged{job_id}, nullptr);
    NIBBLE_LOG(kError,
               absl::StrCat("cannot remove the metrics of job ", job_id, ": ", deleted.message()));
  });
  if (!taken) NIBBLE_LOG(kInfo, "a purge of metrics waits for the next start");
}

void Coordinator::CarryOut(const scheduler::Alert& alert, Group*) {
  NIBBLE_LOG(kWarning, absl::StrCat("alert: ", alert.message));
  parts_.telemetry->Alerted(AlertName(alert.kind));
}

void Coordinator::CarryOut(const scheduler::Reply& reply, Group* group) {
  const auto waiting = group->waiting.find(reply.request_token);
  NIBBLE_CHECK(waiting != group->waiting.end());
  const Group::Waiter waiter = std::move(waiting->second);
  group->waiting.erase(waiting);
  if (!waiter.worker_id.empty() && reply.error.ok()) {
    // Its first list was made in the same step, and is on the board.
    assignments_.Registered(waiter.worker_id, waiter.incarnation);
    counts_changed_ = true;
  }
  waiter.callback(Outcome{absl::OkStatus(), "", reply});
}

void Coordinator::RefreshCounts() {
  if (!counts_changed_) return;
  const auto rows = parts_.store->CountJobs();
  if (!rows.ok()) return;  // the next commit meets the same error and ends the daemon
  counts_changed_ = false;
  scheduler::SchedulerStats stats;
  {
    MutexLock lock(scheduler_mutex_);
    stats = scheduler_->Stats();
  }
  parts_.telemetry->SetCounts(CountsOf(*rows, stats));
}

void Coordinator::Fail(const absl::Status& status, Group* group) {
  const bool disk_full = absl::IsResourceExhausted(status);
  const Outcome answer =
      disk_full ? DiskFull() : Refusal(absl::UnavailableError("the store failed"), "STORE_FAILED");
  if (!disk_full && !failed_) {
    failed_ = true;
    NIBBLE_LOG(kError, absl::StrCat("commit failed: ", status.ToString()));
    parts_.on_fatal(status);
  }
  if (disk_full) {
    NIBBLE_LOG(kError, absl::StrCat("commit refused: ", status.message()));
    disk_full_until_nanos_ = parts_.clock->MonotonicNanos() + options_.disk_full_pause_nanos;
    if (!NIBBLE_PLANTED("ahead_of_full_disk")) RestartScheduler();
  }
  for (auto& [token, waiter] : group->waiting) waiter.callback(answer);
  for (auto& [callback, outcome] : group->answers) callback(answer);
}

// The scheduler is ahead of a store that refused its transaction: start it anew from the store.
// Workers are told to register, and their attempts are adopted.
void Coordinator::RestartScheduler() {
  assignments_.Clear();
  const absl::Status recovered = Recover();
  if (recovered.ok()) return;
  failed_ = true;
  NIBBLE_LOG(kError, absl::StrCat("cannot recover: ", recovered.ToString()));
  parts_.on_fatal(recovered);
}

}  // namespace nibble::coordinator
