#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/job_reference.h"
#include "client/output.h"
#include "client/text.h"

namespace nibble::client {
namespace {

// How long a followed log waits for a daemon that went away.
constexpr absl::Duration kReconnectWindow = absl::Minutes(10);

class LogsVerb : public Verb {
 public:
  VerbText text() const override {
    return {"logs",
            "What a job's trainer printed",
            "Prints the lines that the trainer of a job wrote to its standard output and error: of "
            "the newest attempt, or of --attempt. With -f it goes on until the job has ended, also "
            "over a restart of the daemon.",
            "nibble logs kjv-nvfp4\n"
            "nibble logs kjv-nvfp4 -f\n"
            "nibble logs kjv-nvfp4 --attempt 1 --timestamps",
            {}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &job_, true, {}, Completion::kJob},
            {"-f,--follow", "", "Go on with new lines until the job has ended", &follow_},
            {"--attempt", "N", "Of this attempt; 0, the default, is the newest", &attempt_},
            {"--rank", "N", "Of this rank. Default 0", &rank_},
            {"--timestamps", "", "Begin each line with its time", &timestamps_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    if (attempt_ < 0)
      return absl::InvalidArgumentError("--attempt is negative; allowed: 0 and above");
    if (rank_ < 0 || rank_ > 1'000'000) {
      return absl::InvalidArgumentError("--rank is out of range; allowed: 0 to 1000000");
    }
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    v1::StreamLogsRequest request;
    NIBBLE_ASSIGN_OR_RETURN(*request.mutable_job_id(), FindJobId(*connection, job_));
    request.set_follow(follow_);
    request.set_attempt(attempt_);
    request.set_rank(static_cast<int32_t>(rank_));
    absl::Time last_answer = absl::Now();
    for (;;) {
      // The stream has no cursor: after a reconnection the lines already printed come again.
      int64_t to_skip = printed_;
      const absl::Status status =
          connection->StreamLogs(request, nullptr, [&](const v1::StreamLogsResponse& response) {
            last_answer = absl::Now();
            for (const v1::LogLine& line : response.lines()) Print(session, line, &to_skip);
            session.out().flush();
            return session.out().good();
          });
      const bool lost = absl::IsUnavailable(status) && follow_ && printed_ > 0;
      if (!lost || absl::Now() - last_answer > kReconnectWindow) {
        if (!status.ok()) return status;
        return 0;
      }
      absl::SleepFor(absl::Milliseconds(500));
    }
  }

 private:
  void Print(Session& session, const v1::LogLine& line, int64_t* to_skip) {
    if (line.attempt() != printed_attempt_) {
      *to_skip = 0;
      printed_attempt_ = line.attempt();
      printed_ = 0;
    }
    if (*to_skip > 0) {
      --*to_skip;
      return;
    }
    ++printed_;
    if (timestamps_) session.out() << ExactTime(line.time()) << " ";
    session.out() << Safe(line.text()) << "\n";
  }

  std::string job_;
  bool follow_ = false;
  int64_t attempt_ = 0;
  int64_t rank_ = 0;
  bool timestamps_ = false;
  int64_t printed_attempt_ = 0;
  int64_t printed_ = 0;
};

}  // namespace

std::unique_ptr<Verb> MakeLogsVerb() { return std::make_unique<LogsVerb>(); }

}  // namespace nibble::client
