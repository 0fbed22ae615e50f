// Placement decisions a second of the pure scheduler: 64 workers of 8 slots, all busy, and 10,000
// jobs in the queue. Each round one attempt ends, one job is submitted, and one job starts; the
// time is that of both steps with all their effects.
//
//   scheduler_bench [--rounds N] [--queued N]
//
// Four mixes: one project and one-slot jobs; three projects; widths of 1 to 8 with run times, which
// keeps a reservation up; and one with gangs over several workers.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduler/scheduler.h"

namespace nibble::scheduler {
namespace {

constexpr int kWorkers = 64;
constexpr int kSlots = 8;

struct Mix {
  const char* name;
  int projects;
  int widest;
  bool bounded;
  bool gangs;
};

class Bench {
 public:
  Bench(const Mix& mix, int64_t queued) : mix_(mix) {
    SchedulerOptions options;
    options.projects = {{"p0", 1}, {"p1", 2}, {"p2", 5}};
    scheduler_ = std::make_unique<Scheduler>(options);
    Step(Recovered{});
    for (int i = 0; i < kWorkers; ++i) {
      Step(WorkerRegistered{absl::StrCat("w", i), "i", "", "cpu", "", kSlots, "", {}});
    }
    while (scheduler_->Stats().queue_depth < queued) Submit();
  }

  // Decisions a second.
  double Run(int64_t rounds) {
    const int64_t before = started_;
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < rounds; ++i) {
      Submit();
      EndOne();
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return static_cast<double>(started_ - before) / seconds;
  }

 private:
  void Step(EventBody body) {
    Event event;
    now_.monotonic_nanos += 1'000'000;
    event.now = now_;
    event.request_token = 1;
    event.body = std::move(body);
    for (const Effect& effect : scheduler_->Step(event)) {
      const auto* transaction = std::get_if<Transaction>(&effect);
      if (transaction == nullptr) continue;
      for (const JobRecord& job : transaction->jobs) {
        if (job.state != JobState::kStarting) continue;
        ++started_;
        running_.push_back(job);
      }
    }
  }

  void Submit() {
    auto document = std::make_shared<JobDocument>();
    const int64_t number = next_++;
    document->project = absl::StrCat("p", number % mix_.projects);
    document->slots = 1 + static_cast<int32_t>(number * 7 % mix_.widest);
    if (mix_.gangs && number % 500 == 0) document->slots = 64;
    if (mix_.bounded) document->max_run_nanos = (1 + number % 3) * 60'000'000'000;
    document->total_steps = 10;
    Step(JobSubmitted{absl::StrCat("j-", number), std::move(document), "user", {}});
  }

  void EndOne() {
    const JobRecord job = std::move(running_.front());
    running_.pop_front();
    for (size_t i = job.placement.size(); i-- > 0;) {  // the leader last
      AttemptReported report;
      report.worker_id = job.placement[i].worker_id;
      report.incarnation = "i";
      report.attempt = {job.job_id, job.attempt};
      report.status = AttemptStatus::kSucceeded;
      report.result = TrainingResult{};
      Step(std::move(report));
    }
  }

  const Mix mix_;
  std::unique_ptr<Scheduler> scheduler_;
  Time now_{1, 1};
  std::deque<JobRecord> running_;
  int64_t next_ = 0;
  int64_t started_ = 0;
};

int Main(int argc, char** argv) {
  int64_t rounds = 50'000, queued = 10'000;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--rounds") rounds = std::atoll(argv[i + 1]);
    if (flag == "--queued") queued = std::atoll(argv[i + 1]);
  }
  const Mix mixes[] = {{"one project, one slot", 1, 1, false, false},
                       {"three projects, one slot", 3, 1, false, false},
                       {"three projects, 1 to 8 slots, bounded", 3, 8, true, false},
                       {"the same with gangs of 64", 3, 8, true, true}};
  for (const Mix& mix : mixes) {
    Bench bench(mix, queued);
    bench.Run(rounds / 10);
    std::printf("%-40s %10.0f decisions/s\n", mix.name, bench.Run(rounds));
  }
  return 0;
}

}  // namespace
}  // namespace nibble::scheduler

int main(int argc, char** argv) { return nibble::scheduler::Main(argc, argv); }
