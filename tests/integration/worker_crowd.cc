// A thousand workers in one process: each has its own connection, registers, watches its
// assignments, keeps its leases, and comes back with full jitter whenever the daemon is gone. What
// they are told to run they hold for --hold-ms (0: for ever) and then report as done, so jobs need
// no trainer. Every second, and at the end, a line of JSON on standard output.
//
//   worker_crowd ADDRESS WORKERS SLOTS HOLD_MS SECONDS
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_callback.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "nibble/v1/worker_service.grpc.pb.h"

namespace nibble {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;
using Attempt = std::pair<std::string, int64_t>;
constexpr auto kCallPatience = std::chrono::seconds(20);
// Full jitter, from nothing to this, doubled with each failure in a row.
constexpr int kFirstBackoffMillis = 200;
constexpr int kMaxBackoffMillis = 5000;

SteadyTime Now() { return std::chrono::steady_clock::now(); }

// Runs work at its time, on one thread: what a thousand threads would do otherwise.
class Timer {
 public:
  void At(SteadyTime when, std::function<void()> work) {
    MutexLock lock(mutex_);
    queue_.emplace(when, std::move(work));
    wake_.Signal();
  }
  void RunUntil(SteadyTime end) {
    while (Now() < end) {
      std::function<void()> work;
      {
        MutexLock lock(mutex_);
        const auto next = queue_.empty() ? end : std::min(end, queue_.begin()->first);
        const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(next - Now());
        if (left.count() > 0) wake_.WaitForNanos(mutex_, left.count());
        if (!queue_.empty() && queue_.begin()->first <= Now()) {
          work = std::move(queue_.begin()->second);
          queue_.erase(queue_.begin());
        }
      }
      if (work != nullptr) work();
    }
  }

 private:
  Mutex mutex_;
  CondVar wake_;
  std::multimap<SteadyTime, std::function<void()>> queue_ GUARDED_BY(mutex_);
};

struct Counts {
  std::atomic<int> online{0};  // registered and watching
  std::atomic<int64_t> registrations{0};
  std::atomic<int64_t> renewals{0};
  std::atomic<int64_t> stale{0};     // attempts that the daemon does not know any more
  std::atomic<int64_t> failures{0};  // calls that failed
  std::atomic<int64_t> repeats{0};   // reports that were not taken at first
  std::atomic<int64_t> ended{0};     // attempts reported as done
};

class Worker : public std::enable_shared_from_this<Worker> {
 public:
  struct Options {
    std::string address;
    int number;
    int slots;
    int hold_ms;
  };
  Worker(const Options& options, Timer* timer, Counts* counts)
      : options_(options), timer_(timer), counts_(counts), random_(options.number) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
    stub_ = v1::WorkerService::NewStub(
        grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments));
  }

  void Register() {
    auto call = std::make_shared<Call<v1::RegisterWorkerRequest, v1::RegisterWorkerResponse>>();
    Identify(&call->request);
    call->request.set_host("crowd");
    call->request.set_device_kind("cpu");
    call->request.set_slots(options_.slots);
    {
      MutexLock lock(mutex_);
      for (const Attempt& attempt : running_) AddKey(attempt, call->request.add_running());
    }
    call->Prepare();
    stub_->async()->RegisterWorker(&call->context, &call->request, &call->response,
                                   [self = shared_from_this(), call](const grpc::Status& status) {
                                     if (!status.ok()) return self->Again();
                                     ++self->counts_->registrations;
                                     self->failures_ = 0;
                                     const int adopted = call->response.adopted_size();
                                     self->counts_->stale += call->request.running_size() - adopted;
                                     self->term_ms_ = call->response.lease_term_ms();
                                     self->Watch();
                                   });
  }

 private:
  template <typename Request, typename Response>
  struct Call {
    grpc::ClientContext context;
    Request request;
    Response response;
    void Prepare() { context.set_deadline(std::chrono::system_clock::now() + kCallPatience); }
  };

  class WatchReader : public grpc::ClientReadReactor<v1::AssignmentList> {
   public:
    explicit WatchReader(std::shared_ptr<Worker> worker) : worker_(std::move(worker)) {}
    void Begin() {
      worker_->Identify(&request_);
      worker_->stub_->async()->WatchAssignments(&context_, &request_, this);
      StartRead(&list_);
      StartCall();
    }
    void OnReadDone(bool ok) override {
      if (!ok) return;
      worker_->Follow(list_, &first_);
      StartRead(&list_);
    }
    void OnDone(const grpc::Status&) override {
      if (!first_) --worker_->counts_->online;
      ++worker_->generation_;
      worker_->Again();
      delete this;
    }

   private:
    const std::shared_ptr<Worker> worker_;
    grpc::ClientContext context_;
    v1::WatchAssignmentsRequest request_;
    v1::AssignmentList list_;
    bool first_ = true;
  };

  template <typename Request>
  void Identify(Request* request) const {
    request->set_worker_id(absl::StrCat("crowd-", options_.number));
    request->set_incarnation("one");
  }
  static void AddKey(const Attempt& attempt, v1::AttemptKey* key) {
    key->set_job_id(attempt.first);
    key->set_attempt(attempt.second);
  }

  void After(int millis, void (Worker::*what)()) {
    timer_->At(Now() + std::chrono::milliseconds(millis),
               [self = shared_from_this(), what] { (self.get()->*what)(); });
  }

  void Again() {
    ++counts_->failures;
    const int cap = std::min(kMaxBackoffMillis, kFirstBackoffMillis << std::min(failures_++, 8));
    MutexLock lock(mutex_);
    After(static_cast<int>(random_() % static_cast<unsigned>(cap)), &Worker::Register);
  }

  void Watch() { (new WatchReader(shared_from_this()))->Begin(); }

  void Follow(const v1::AssignmentList& list, bool* first) {
    if (*first) {
      *first = false;
      ++counts_->online;
      RenewLater(generation_.load());
    }
    std::set<Attempt> wanted;
    MutexLock lock(mutex_);
    for (const v1::Assignment& assignment : list.assignments()) {
      const Attempt attempt(assignment.key().job_id(), assignment.key().attempt());
      if (assignment.action() != v1::Assignment::RUN) {
        Report(attempt, v1::ReportAttemptRequest::STOPPED);
      } else if (running_.count(attempt) == 0 && done_.count(attempt) == 0) {
        Report(attempt, v1::ReportAttemptRequest::TRAINING);
        if (options_.hold_ms > 0) {
          timer_->At(Now() + std::chrono::milliseconds(options_.hold_ms),
                     [self = shared_from_this(), attempt] { self->Finish(attempt); });
        }
      }
      wanted.insert(attempt);
    }
    done_.clear();
    running_ = std::move(wanted);
  }

  void Finish(const Attempt& attempt) {
    MutexLock lock(mutex_);
    if (running_.erase(attempt) == 0) return;
    done_.insert(attempt);
    Report(attempt, v1::ReportAttemptRequest::SUCCEEDED);
  }

  void Report(const Attempt& attempt, v1::ReportAttemptRequest::Status status) {
    auto call = std::make_shared<Call<v1::ReportAttemptRequest, v1::ReportAttemptResponse>>();
    Identify(&call->request);
    AddKey(attempt, call->request.mutable_key());
    call->request.set_status(status);
    if (status == v1::ReportAttemptRequest::SUCCEEDED) {
      call->request.mutable_result()->set_steps(1);
    }
    call->Prepare();
    stub_->async()->ReportAttempt(
        &call->context, &call->request, &call->response,
        [self = shared_from_this(), call](const grpc::Status& answer) {
          if (answer.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ||
              answer.error_code() == grpc::StatusCode::UNAVAILABLE) {
            self->ReportAgain(call->request);
          } else if (!answer.ok()) {
            ++self->counts_->failures;
          } else if (call->request.has_result()) {
            ++self->counts_->ended;
          }
        });
  }

  // The daemon had too much to do, or was gone.
  void ReportAgain(const v1::ReportAttemptRequest& request) {
    ++counts_->repeats;
    MutexLock lock(mutex_);
    const auto wait = std::chrono::milliseconds(random_() % kFirstBackoffMillis * 5);
    const Attempt attempt(request.key().job_id(), request.key().attempt());
    timer_->At(Now() + wait, [self = shared_from_this(), attempt, status = request.status()] {
      self->Report(attempt, status);
    });
  }

  void RenewLater(int64_t generation) {
    timer_->At(Now() + std::chrono::milliseconds(term_ms_ / 3),
               [self = shared_from_this(), generation] { self->Renew(generation); });
  }

  void Renew(int64_t generation) {
    if (generation != generation_) return;  // the connection was lost meanwhile
    auto call = std::make_shared<Call<v1::RenewLeasesRequest, v1::RenewLeasesResponse>>();
    Identify(&call->request);
    {
      MutexLock lock(mutex_);
      for (const Attempt& attempt : running_) AddKey(attempt, call->request.add_attempts());
    }
    call->Prepare();
    stub_->async()->RenewLeases(
        &call->context, &call->request, &call->response,
        [self = shared_from_this(), call, generation](const grpc::Status& status) {
          if (status.ok()) {
            ++self->counts_->renewals;
            self->counts_->stale += call->response.stale_size();
          } else {
            ++self->counts_->failures;
          }
          self->RenewLater(generation);
        });
  }

  const Options options_;
  Timer* const timer_;
  Counts* const counts_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
  std::atomic<int64_t> term_ms_{15000};
  std::atomic<int64_t> generation_{0};
  std::atomic<int> failures_{0};
  Mutex mutex_;
  std::mt19937 random_ GUARDED_BY(mutex_);
  std::set<Attempt> running_ GUARDED_BY(mutex_);
  std::set<Attempt> done_ GUARDED_BY(mutex_);
};

void Print(const Counts& counts) {
  std::printf(
      "{\"online\": %d, \"registrations\": %lld, \"renewals\": %lld, \"stale\": %lld, "
      "\"failures\": %lld, \"repeats\": %lld, \"ended\": %lld}\n",
      counts.online.load(), static_cast<long long>(counts.registrations),
      static_cast<long long>(counts.renewals), static_cast<long long>(counts.stale),
      static_cast<long long>(counts.failures), static_cast<long long>(counts.repeats),
      static_cast<long long>(counts.ended));
  std::fflush(stdout);
}

int Run(char** arguments) {
  Timer timer;
  Counts counts;
  std::vector<std::shared_ptr<Worker>> workers;
  for (int i = 0; i < std::atoi(arguments[2]); ++i) {
    workers.push_back(std::make_shared<Worker>(
        Worker::Options{arguments[1], i, std::atoi(arguments[3]), std::atoi(arguments[4])}, &timer,
        &counts));
    workers.back()->Register();
  }
  for (int second = 0; second < std::atoi(arguments[5]); ++second) {
    timer.RunUntil(Now() + std::chrono::seconds(1));
    Print(counts);
  }
  std::_Exit(0);  // calls are under way
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: worker_crowd ADDRESS WORKERS SLOTS HOLD_MS SECONDS\n");
    return 2;
  }
  return nibble::Run(argv);
}
