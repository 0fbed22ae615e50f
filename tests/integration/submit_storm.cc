// Load for the daemon: CLIENTS threads submit JOBS jobs between them, each with a request_id of its
// own and repeated until it is acknowledged, and print "request_id job_id" for every one. Every
// fourth is submitted once more after that. The daemon may be killed and restarted meanwhile.
// Fails where a job was refused or a request made two.
//   submit_storm ADDRESS CLIENTS JOBS SPEC.textproto
#include <google/protobuf/text_format.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/mutex.h"
#include "nibble/v1/training_service.grpc.pb.h"

namespace nibble {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);
constexpr int kRepeatEvery = 4;

// The job id, or empty where a job was refused or the patience ran out.
std::string SubmitUntilAcknowledged(v1::TrainingService::Stub& stub,
                                    const v1::SubmitJobRequest& request) {
  const auto give_up = std::chrono::system_clock::now() + kPatience;
  while (std::chrono::system_clock::now() < give_up) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    context.set_wait_for_ready(true);
    v1::SubmitJobResponse response;
    const grpc::Status status = stub.SubmitJob(&context, request, &response);
    if (status.ok()) return response.job().job_id();
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE &&
        status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
      std::fprintf(stderr, "refused: %d %s\n", status.error_code(), status.error_message().c_str());
      return "";
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  std::fprintf(stderr, "%s: no answer\n", request.request_id().c_str());
  return "";
}

int Run(const std::string& address, int clients, int jobs, const std::string& spec_file) {
  const absl::StatusOr<std::string> text = ReadFile(spec_file, 1 << 20);
  v1::JobSpec spec;
  if (!text.ok() || !google::protobuf::TextFormat::ParseFromString(*text, &spec)) {
    std::fprintf(stderr, "cannot read %s\n", spec_file.c_str());
    return 2;
  }
  std::atomic<int> next{0};
  std::atomic<int> failed{0};
  Mutex output;
  std::vector<std::thread> threads;
  for (int c = 0; c < clients; ++c) {
    threads.emplace_back([&] {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
      arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
      // Also how long one connection attempt may take; only a call that waits drives it.
      arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
      // A connection of its own, not one shared through the global pool.
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      const auto stub = v1::TrainingService::NewStub(
          grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
      for (int i = next++; i < jobs; i = next++) {
        v1::SubmitJobRequest request;
        *request.mutable_spec() = spec;
        request.mutable_spec()->set_name(absl::StrCat(spec.name(), "-", i));
        request.set_request_id(absl::StrCat("storm-", i));
        const std::string id = SubmitUntilAcknowledged(*stub, request);
        if (id.empty()) {
          ++failed;
          continue;
        }
        // As where an acknowledgement was lost: the same request again gives the same job.
        if (i % kRepeatEvery == 0) {
          const std::string again = SubmitUntilAcknowledged(*stub, request);
          if (again != id) {
            std::fprintf(stderr, "%s gave %s and then '%s'\n", request.request_id().c_str(), id.c_str(),
                         again.c_str());
            ++failed;
          }
        }
        MutexLock lock(output);
        std::printf("%s %s\n", request.request_id().c_str(), id.c_str());
        std::fflush(stdout);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: submit_storm ADDRESS CLIENTS JOBS SPEC.textproto\n");
    return 2;
  }
  return nibble::Run(argv[1], std::atoi(argv[2]), std::atoi(argv[3]), argv[4]);
}
