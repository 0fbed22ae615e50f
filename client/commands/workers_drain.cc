#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/output.h"
#include "client/text.h"

namespace nibble::client {
namespace {

void Print(Session& session, const v1::Worker& worker) {
  if (session.structured()) {
    PrintStructured(session, worker);
    return;
  }
  session.out() << Safe(worker.worker_id()) << " " << (worker.drained() ? "drained" : "takes work")
                << ", " << worker.job_ids_size() << " running" << std::endl;
}

class DrainVerb : public Verb {
 public:
  VerbText text() const override {
    return {"workers drain",
            "Give a worker no new work",
            "A drained worker finishes what runs on it and gets nothing new, also after restarts, "
            "until it is undrained. With --evict what runs there writes a checkpoint and goes on "
            "elsewhere.",
            "nibble workers drain node-7 --reason 'new disk'\nnibble workers drain node-7 --evict",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"WORKER", "", "Its id", &worker_, true},
            {"--reason", "TEXT", "For people", &reason_},
            {"--evict", "", "Let what runs there go on elsewhere", &evict_}};
  }
  absl::StatusOr<int> Run(Session& session) override {
    v1::DrainWorkerRequest request;
    request.set_worker_id(worker_);
    request.set_reason(reason_);
    request.set_evict(evict_);
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const v1::Worker worker, connection->DrainWorker(request));
    Print(session, worker);
    return 0;
  }

 private:
  std::string worker_;
  std::string reason_;
  bool evict_ = false;
};

class UndrainVerb : public Verb {
 public:
  VerbText text() const override {
    return {"workers undrain",
            "Give a drained worker work again",
            "Ends what `nibble workers drain` began, or what the daemon did when different jobs "
            "failed on the worker one after the other.",
            "nibble workers undrain node-7",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override { return {{"WORKER", "", "Its id", &worker_, true}}; }
  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const v1::Worker worker, connection->UndrainWorker(worker_));
    Print(session, worker);
    return 0;
  }

 private:
  std::string worker_;
};

}  // namespace

std::unique_ptr<Verb> MakeWorkersDrainVerb() { return std::make_unique<DrainVerb>(); }
std::unique_ptr<Verb> MakeWorkersUndrainVerb() { return std::make_unique<UndrainVerb>(); }

}  // namespace nibble::client
