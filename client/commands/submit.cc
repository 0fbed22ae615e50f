#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_view.h"
#include "client/output.h"
#include "client/spec_file.h"
#include "client/watch.h"

namespace nibble::client {
namespace {

class SubmitVerb : public Verb {
 public:
  VerbText text() const override {
    return {"submit",
            "Give the daemon a job",
            "Submits a job spec and prints the id of the job. When the id is printed the job is on "
            "the daemon's disk. Each submission carries a random request id, so that a repetition "
            "after a lost answer makes no second job; give --request-id to make your own "
            "repetitions safe too. Warnings go to standard error.",
            "nibble submit deploy/examples/kjv-nvfp4.yaml\n"
            "nibble submit job.yaml --name trial-2 --set optimizer.learning_rate=2e-3 --watch\n"
            "nibble submit job.yaml --wait && echo trained\n"
            "nibble submit job.yaml --validate-only      # ask the daemon, store nothing\n"
            "sed s/nvfp4/bf16/ job.yaml | nibble submit - -o json | jq -r .job_id",
            {"table", "wide", "json", "yaml"}};
  }

  std::vector<Option> options() override {
    std::vector<Option> options = SpecOptions(&source_);
    options.insert(
        options.end(),
        {{"--request-id", "ID", "Key of this submission: the same again returns the same job",
          &request_id_},
         {"-w,--wait", "", "Wait until the job has ended; exit code 1 where it did not succeed",
          &wait_},
         {"--watch", "", "Show the job as `nibble watch` does until it has ended", &watch_},
         {"--validate-only", "", "Let the daemon check the spec and store nothing",
          &validate_only_}});
    return options;
  }

  absl::StatusOr<int> Run(Session& session) override {
    v1::SubmitJobRequest request;
    NIBBLE_ASSIGN_OR_RETURN(*request.mutable_spec(), ReadSpec(session, source_));
    request.set_request_id(request_id_.empty() ? MakeId("cli-", SystemRandom()) : request_id_);
    request.set_validate_only(validate_only_);
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const v1::SubmitJobResponse response, connection->SubmitJob(request));
    for (const std::string& warning : response.warnings()) {
      session.err() << "warning: " << Safe(warning) << std::endl;
    }
    if (validate_only_ || !(wait_ || watch_)) {
      Print(session, response.job());
      return 0;
    }
    // A program that waits wants the job as it ended.
    const bool print_at_end = session.structured() && !watch_;
    if (!print_at_end) Print(session, response.job());
    session.out().flush();
    WatchOptions options;
    options.quiet = !watch_;
    const std::string& job_id = response.job().job_id();
    NIBBLE_ASSIGN_OR_RETURN(const int code, Watch(session, {job_id}, options));
    if (print_at_end) {
      NIBBLE_ASSIGN_OR_RETURN(const v1::Job job, connection->GetJob(job_id));
      ShowJob(session, job);
    }
    return code;
  }

 private:
  void Print(Session& session, const v1::Job& job) const {
    if (session.format() != "table") {
      ShowJob(session, job);
    } else if (validate_only_) {
      session.out() << "valid\n";
    } else {
      session.out() << Safe(job.job_id()) << "\n";
    }
  }

  SpecSource source_;
  std::string request_id_;
  bool wait_ = false;
  bool watch_ = false;
  bool validate_only_ = false;
};

}  // namespace

std::unique_ptr<Verb> MakeSubmitVerb() { return std::make_unique<SubmitVerb>(); }

}  // namespace nibble::client
