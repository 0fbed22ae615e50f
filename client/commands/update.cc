#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/commands/job_action.h"

namespace nibble::client {
namespace {

class UpdateVerb : public Verb {
 public:
  VerbText text() const override {
    return {"update",
            "Change priority and labels of a job",
            "Changes jobs that have not ended. --label replaces all labels that a job has. With "
            "--etag the change is refused where the job has changed since.",
            "nibble update kjv-nvfp4 --priority 10\n"
            "nibble update kjv-nvfp4 --label team=lm --label stage=2",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override {
    return {{"JOB", "", "Id, beginning of an id, or name", &jobs_, true, {}, Completion::kJob},
            {"--priority", "N", "-1000 to 1000; higher starts earlier", &priority_},
            {"--label", "KEY=VALUE", "A label; may be given several times", &labels_},
            {"--etag", "ETAG", "Of the job as it was read", &etag_}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    v1::UpdateJobRequest request;
    int32_t priority = 0;
    if (!priority_.empty()) {
      if (!absl::SimpleAtoi(priority_, &priority)) {
        return absl::InvalidArgumentError("--priority: allowed are whole numbers");
      }
      request.set_priority(priority);
    }
    for (const std::string& label : labels_) {
      const size_t equals = label.find('=');
      if (equals == std::string::npos || equals == 0) {
        return absl::InvalidArgumentError("--label: allowed is KEY=VALUE");
      }
      (*request.mutable_labels())[label.substr(0, equals)] = label.substr(equals + 1);
    }
    request.set_replace_labels(!labels_.empty());
    request.set_etag(etag_);
    if (priority_.empty() && labels_.empty()) {
      return absl::InvalidArgumentError("nothing to change: give --priority or --label");
    }
    return RunJobAction(session, jobs_,
                        [&request](Connection& connection, const std::string& job_id) {
                          request.set_job_id(job_id);
                          return connection.UpdateJob(request);
                        });
  }

 private:
  std::vector<std::string> jobs_;
  std::string priority_;
  std::vector<std::string> labels_;
  std::string etag_;
};

}  // namespace

std::unique_ptr<Verb> MakeUpdateVerb() { return std::make_unique<UpdateVerb>(); }

}  // namespace nibble::client
