// Load on a real daemon over loopback, for service_bench.py. One line of JSON on standard output.
//
//   service_load ADDRESS submit CLIENTS JOBS   durable submissions, each client with a connection
//   service_load ADDRESS list ROUNDS PAGES     latency of pages of 100, from the newest on
//   service_load ADDRESS start JOBS            one job after the other on an idle worker: from the
//                                              call of SubmitJob until a watcher reads RUNNING,
//                                              which comes after the trainer said that it trains
//   service_load ADDRESS metrics SECONDS       points of a job's metrics, as its worker sends them
//   service_load FILE sqlite SECONDS           the peer: rows of one value into a table of its own,
//                                              WAL, synchronous=FULL, 1,000 rows a transaction
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nibble/v1/training_service.grpc.pb.h"
#include "nibble/v1/worker_service.grpc.pb.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kRecordsOfAppend = 400;
constexpr int kValuesOfRecord = 50;
constexpr int kRowsOfTransaction = 1000;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

int Failed(const grpc::Status& status) {
  std::fprintf(stderr, "%d: %s\n", status.error_code(), status.error_message().c_str());
  return 1;
}

void FillSpec(v1::JobSpec* spec, int number) {
  spec->set_name(absl::StrCat("load-", number));
  auto* model = spec->mutable_model();
  model->set_width(16);
  model->set_blocks(1);
  model->set_heads(1);
  model->set_mlp_width(16);
  spec->mutable_data()->set_path("tiny");
  spec->mutable_training()->set_steps(1);
  spec->mutable_training()->set_sequence_length(16);
  spec->mutable_training()->set_batch_size(1);
  spec->mutable_precision()->set_recipe("bf16");
}

void PrintLatencies(std::vector<double> seconds, double total) {
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double share) {
    return 1e3 * seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1))];
  };
  std::printf(
      "{\"calls\": %zu, \"seconds\": %.3f, \"per_second\": %.0f, \"p50_ms\": %.2f, \"p99_ms\": "
      "%.2f, "
      "\"max_ms\": %.2f}\n",
      seconds.size(), total, static_cast<double>(seconds.size()) / total, at(0.5), at(0.99), at(1));
}

int Submit(const std::string& address, int clients, int jobs) {
  std::atomic<int> next{0};
  std::atomic<bool> failed{false};
  std::vector<std::vector<double>> latencies(static_cast<size_t>(clients));
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  for (auto& mine : latencies) {
    threads.emplace_back([&] {
      const auto stub = v1::TrainingService::NewStub(Connect(address));
      for (int i = next++; i < jobs && !failed; i = next++) {
        grpc::ClientContext context;
        v1::SubmitJobRequest request;
        FillSpec(request.mutable_spec(), i);
        request.set_request_id(absl::StrCat(address, "-", ::getpid(), "-", i));
        v1::SubmitJobResponse job;
        const auto begin = Clock::now();
        const grpc::Status status = stub->SubmitJob(&context, request, &job);
        if (!status.ok()) {
          Failed(status);
          failed = true;
        }
        mine.push_back(SecondsSince(begin));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double total = SecondsSince(start);
  std::vector<double> all;
  for (const auto& mine : latencies) all.insert(all.end(), mine.begin(), mine.end());
  PrintLatencies(std::move(all), total);
  return failed ? 1 : 0;
}

int Start(const std::string& address, int jobs) {
  const auto stub = v1::TrainingService::NewStub(Connect(address));
  std::vector<double> latencies;
  const auto start = Clock::now();
  for (int i = 0; i < jobs; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    const auto begin = Clock::now();
    grpc::ClientContext context;
    v1::SubmitJobRequest request;
    FillSpec(request.mutable_spec(), i);
    request.mutable_spec()->mutable_training()->set_steps(4000);  // it must not end unseen
    v1::SubmitJobResponse submitted;
    const grpc::Status status = stub->SubmitJob(&context, request, &submitted);
    if (!status.ok()) return Failed(status);
    grpc::ClientContext watch_context;
    v1::WatchJobsRequest watch;
    watch.add_job_ids(submitted.job().job_id());
    const auto reader = stub->WatchJobs(&watch_context, watch);
    v1::WatchJobsResponse change;
    bool running = false;
    v1::JobState last = v1::JOB_STATE_UNSPECIFIED;
    while (reader->Read(&change)) {  // the stream ends after the job
      last = change.job().state();
      if (!running && last == v1::RUNNING) latencies.push_back(SecondsSince(begin));
      running = running || last == v1::RUNNING;
    }
    const grpc::Status end = reader->Finish();
    if (!end.ok()) return Failed(end);
    if (last != v1::SUCCEEDED || !running) {
      std::fprintf(stderr, "a job ended %s\n", v1::JobState_Name(last).c_str());
      return 1;
    }
  }
  PrintLatencies(std::move(latencies), SecondsSince(start));
  return 0;
}

int List(const std::string& address, int rounds, int pages) {
  const auto stub = v1::TrainingService::NewStub(Connect(address));
  std::vector<double> latencies;
  const auto start = Clock::now();
  for (int round = 0; round < rounds; ++round) {
    v1::ListJobsRequest request;
    request.set_page_size(100);
    for (int page = 0; page < pages; ++page) {
      grpc::ClientContext context;
      v1::ListJobsResponse response;
      const auto begin = Clock::now();
      const grpc::Status status = stub->ListJobs(&context, request, &response);
      if (!status.ok()) return Failed(status);
      latencies.push_back(SecondsSince(begin));
      if (response.jobs_size() != 100) std::fprintf(stderr, "%d jobs\n", response.jobs_size());
      request.set_page_token(response.next_page_token());
    }
  }
  PrintLatencies(std::move(latencies), SecondsSince(start));
  return 0;
}

// A worker of one slot that gets the job it submits.
int Metrics(const std::string& address, double seconds) {
  const auto channel = Connect(address);
  const auto workers = v1::WorkerService::NewStub(channel);
  grpc::Status status;
  {
    grpc::ClientContext context;
    v1::RegisterWorkerRequest request;
    request.set_worker_id("load");
    request.set_incarnation("one");
    request.set_device_kind("cpu");
    request.set_slots(1);
    v1::RegisterWorkerResponse response;
    status = workers->RegisterWorker(&context, request, &response);
    if (!status.ok()) return Failed(status);
  }
  {
    grpc::ClientContext context;
    v1::SubmitJobRequest request;
    FillSpec(request.mutable_spec(), 0);
    v1::SubmitJobResponse job;
    status = v1::TrainingService::NewStub(channel)->SubmitJob(&context, request, &job);
    if (!status.ok()) return Failed(status);
  }
  grpc::ClientContext watch_context;
  v1::WatchAssignmentsRequest watch;
  watch.set_worker_id("load");
  watch.set_incarnation("one");
  const auto reader = workers->WatchAssignments(&watch_context, watch);
  v1::AssignmentList list;
  while (list.assignments_size() == 0) {
    if (!reader->Read(&list)) return Failed(reader->Finish());
  }
  v1::AppendMetricsRequest request;
  request.set_worker_id("load");
  request.set_incarnation("one");
  *request.mutable_key() = list.assignments(0).key();
  int64_t sequence = 0;
  const auto start = Clock::now();
  while (SecondsSince(start) < seconds) {
    request.clear_records();
    for (int i = 0; i < kRecordsOfAppend; ++i) {
      v1::MetricRecord* record = request.add_records();
      record->set_sequence(++sequence);
      record->set_step(sequence);
      for (int value = 0; value < kValuesOfRecord; ++value) {
        (*record->mutable_values())[absl::StrCat("metric_", value)] =
            static_cast<double>(sequence) + value;
      }
    }
    grpc::ClientContext context;
    v1::AppendMetricsResponse response;
    status = workers->AppendMetrics(&context, request, &response);
    if (!status.ok()) return Failed(status);
  }
  const double total = SecondsSince(start);
  const double points = static_cast<double>(sequence) * kValuesOfRecord;
  std::printf("{\"points\": %.0f, \"seconds\": %.3f, \"points_per_second\": %.0f}\n", points, total,
              points / total);
  std::fflush(stdout);
  std::_Exit(0);  // the watch is open
}

int Sqlite(const std::string& path, double seconds) {
  sqlite3* db = nullptr;
  if (sqlite3_open(path.c_str(), &db) != SQLITE_OK) return 1;
  const char* const setup =
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA locking_mode=EXCLUSIVE;"
      "CREATE TABLE points(series INTEGER, step INTEGER, value REAL)";
  if (sqlite3_exec(db, setup, nullptr, nullptr, nullptr) != SQLITE_OK) return 1;
  sqlite3_stmt* insert = nullptr;
  sqlite3_prepare_v2(db, "INSERT INTO points VALUES(?, ?, ?)", -1, &insert, nullptr);
  int64_t rows = 0;
  const auto start = Clock::now();
  while (SecondsSince(start) < seconds) {
    sqlite3_exec(db, "BEGIN", nullptr, nullptr, nullptr);
    for (int i = 0; i < kRowsOfTransaction; ++i, ++rows) {
      sqlite3_bind_int64(insert, 1, rows % kValuesOfRecord);
      sqlite3_bind_int64(insert, 2, rows / kValuesOfRecord);
      sqlite3_bind_double(insert, 3, static_cast<double>(rows));
      if (sqlite3_step(insert) != SQLITE_DONE) return 1;
      sqlite3_reset(insert);
    }
    if (sqlite3_exec(db, "COMMIT", nullptr, nullptr, nullptr) != SQLITE_OK) return 1;
  }
  const double total = SecondsSince(start);
  std::printf("{\"points\": %lld, \"seconds\": %.3f, \"points_per_second\": %.0f}\n",
              static_cast<long long>(rows), total, static_cast<double>(rows) / total);
  sqlite3_finalize(insert);
  return sqlite3_close(db) == SQLITE_OK ? 0 : 1;
}

int Run(int argc, char** argv) {
  const std::string mode = argc > 2 ? argv[2] : "";
  if (mode == "submit" && argc == 5) return Submit(argv[1], std::atoi(argv[3]), std::atoi(argv[4]));
  if (mode == "list" && argc == 5) return List(argv[1], std::atoi(argv[3]), std::atoi(argv[4]));
  if (mode == "start" && argc == 4) return Start(argv[1], std::atoi(argv[3]));
  if (mode == "metrics" && argc == 4) return Metrics(argv[1], std::atof(argv[3]));
  if (mode == "sqlite" && argc == 4) return Sqlite(argv[1], std::atof(argv[3]));
  std::fprintf(stderr, "usage: service_load ADDRESS submit|list|start|metrics|sqlite ...\n");
  return 2;
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) { return nibble::Run(argc, argv); }
