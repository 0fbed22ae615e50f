#include <chrono>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/experiment/plan.h"
#include "client/experiment/report.h"
#include "client/job_view.h"
#include "client/plot.h"
#include "client/spec_file.h"
#include "client/text.h"

namespace nibble::client {
namespace {

constexpr std::chrono::seconds kPollInterval{1};
// A daemon that restarts is waited for as long as `nibble watch` does.
constexpr int64_t kPatienceNanos = 600'000'000'000;

// Shows how far the experiment is until every job has ended.
class GroupWait {
 public:
  explicit GroupWait(Session& session) : session_(session) {}

  absl::Status Run(Connection& connection, const std::string& group) {
    int64_t last_answer = session_.clock().MonotonicNanos();
    while (true) {
      const auto jobs = ReadGroup(connection, group);
      const int64_t now = session_.clock().MonotonicNanos();
      if (jobs.ok()) {
        last_answer = now;
        if (Show(*jobs)) return absl::OkStatus();
      } else if (!absl::IsUnavailable(jobs.status()) || now - last_answer > kPatienceNanos) {
        return jobs.status();
      }
      std::this_thread::sleep_for(kPollInterval);
    }
  }

 private:
  // True where nothing is left to wait for.
  bool Show(const std::vector<v1::Job>& jobs) {
    double done = 0;
    size_t ended = 0;
    for (const v1::Job& job : jobs) {
      const bool over = IsTerminal(job.state());
      ended += over;
      if (over) {
        done += 1;
      } else if (job.total_steps() > 0) {
        done += double(job.step()) / double(job.total_steps());
      }
      if (over && shown_.insert(job.job_id()).second) ShowEnded(job, jobs.size());
    }
    if (session_.terminal().err_is_terminal) {
      session_.err() << "\r\033[K" << ProgressBar(session_.terminal(), done / jobs.size(), 30)
                     << "  " << ended << "/" << jobs.size() << " jobs" << std::flush;
      if (ended == jobs.size()) session_.err() << "\r\033[K" << std::flush;
    }
    return ended == jobs.size();
  }

  void ShowEnded(const v1::Job& job, size_t all) {
    if (session_.terminal().err_is_terminal) session_.err() << "\r\033[K";
    session_.err() << shown_.size() << "/" << all << "  " << Safe(job.spec().name()) << "  "
                   << StateName(job.state());
    if (job.has_result()) {
      session_.err() << "  validation loss " << Loss(job.result().validation_loss());
    }
    session_.err() << std::endl;
  }

  Session& session_;
  std::set<std::string> shown_;
};

// Shows the report; exit code 1 where a run has no result.
absl::StatusOr<int> Report(Session& session, const std::string& group) {
  NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
  NIBBLE_ASSIGN_OR_RETURN(const ExperimentReport report, ReadExperiment(*connection, group));
  PrintReport(session, report);
  return report.Broken().empty() ? 0 : 1;
}

class PaperVerb : public Verb {
 public:
  VerbText text() const override {
    return {
        "experiment nvfp4-paper",
        "The NVFP4 paper's comparison and ablations as one group of jobs",
        "Submits a baseline and variants of one training run (arXiv 2509.25149, section 4 and "
        "appendix E, at the size you choose), each with several seeds, waits for them and prints "
        "the relative loss gap to the baseline by tokens, with the spread of the seeds: a gap "
        "that the seeds alone explain is marked as such. The jobs are ordinary ones with the "
        "label experiment=GROUP. Running the same command again submits nothing twice and waits "
        "on.",
        "nibble experiment nvfp4-paper --preset llama-tiny --data kjv --tokens 800000\n"
        "nibble experiment nvfp4-paper --spec job.yaml --variants nvfp4,no-hadamard --seeds 5\n"
        "nibble experiment nvfp4-paper --spec job.yaml --group second --no-wait\n"
        "nibble experiment report second",
        {"table", "json", "yaml"}};
  }

  std::vector<Option> options() override {
    return {{"--spec",
             "FILE",
             "Job spec of the base run; its name, seed and precision are replaced",
             &source_.file,
             false,
             {},
             Completion::kFile},
            {"--preset", "NAME", "model.preset of the base run", &preset_},
            {"--data", "PATH", "data.path of the base run", &data_},
            {"--tokens", "N", "training.tokens of the base run", &tokens_},
            {"--set", "PATH=VALUE", "Change a field of the base run; may be repeated",
             &source_.changes},
            {"--seeds", "N", "Runs of each variant. Default 3", &options_.seeds},
            {"--variants", "A,B", "Only these; default all", &variants_},
            {"--baseline", "NAME", "bf16 (default) or fp8-blockwise", &options_.baseline},
            {"--group", "NAME", "Name of the experiment. Default nvfp4-paper", &options_.group},
            {"--no-wait", "", "Only submit", &no_wait_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(options_.base, Base(session));
    if (!variants_.empty()) options_.variants = absl::StrSplit(variants_, ',', absl::SkipEmpty());
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<PlannedJob> jobs, PlanPaperExperiment(options_));
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    for (const PlannedJob& job : jobs) {
      v1::SubmitJobRequest request;
      *request.mutable_spec() = job.spec;
      request.set_request_id(job.request_id);
      const auto submitted = connection->SubmitJob(request);
      if (absl::IsAlreadyExists(submitted.status())) {
        return absl::AlreadyExistsError(absl::StrCat("the experiment ", options_.group,
                                                     " exists with other settings (",
                                                     job.spec.name(), "); choose another --group"));
      }
      NIBBLE_RETURN_IF_ERROR(submitted.status());
    }
    session.err() << jobs.size() << " jobs with the label " << kExperimentLabel << "="
                  << options_.group << std::endl;
    if (no_wait_) return 0;
    NIBBLE_RETURN_IF_ERROR(GroupWait(session).Run(*connection, options_.group));
    return Report(session, options_.group);
  }

 private:
  absl::StatusOr<v1::JobSpec> Base(Session& session) {
    const auto add = [this](const char* path, const std::string& value) {
      if (!value.empty()) source_.changes.push_back(absl::StrCat(path, "=", value));
    };
    add("model.preset", preset_);
    add("data.path", data_);
    if (tokens_ != 0) {
      source_.changes.push_back("training.steps=");
      add("training.tokens", absl::StrCat(tokens_));
    }
    return ReadSpec(session, source_);
  }

  SpecSource source_;
  std::string preset_;
  std::string data_;
  int64_t tokens_ = 0;
  std::string variants_;
  bool no_wait_ = false;
  ExperimentOptions options_{.group = "nvfp4-paper"};
};

class ReportVerb : public Verb {
 public:
  VerbText text() const override {
    return {"experiment report",
            "The table and plot of an experiment",
            "Prints what the jobs of an experiment say together, as far as they are. Exit code 1 "
            "where one of them failed or was cancelled.",
            "nibble experiment report nvfp4-paper\n"
            "nibble experiment report nvfp4-paper -o json | jq '.variants[].loss'",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"GROUP", "", "Name of the experiment", &group_, true}};
  }
  absl::StatusOr<int> Run(Session& session) override { return Report(session, group_); }

 private:
  std::string group_;
};

}  // namespace

std::unique_ptr<Verb> MakeExperimentPaperVerb() { return std::make_unique<PaperVerb>(); }
std::unique_ptr<Verb> MakeExperimentReportVerb() { return std::make_unique<ReportVerb>(); }

}  // namespace nibble::client
