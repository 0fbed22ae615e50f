#include "client/commands/job_action.h"

#include "base/status_macros.h"
#include "client/job_reference.h"
#include "client/message_text.h"
#include "client/output.h"
#include "client/status.h"
#include "client/text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {

absl::StatusOr<int> RunJobAction(
    Session& session, const std::vector<std::string>& references,
    const std::function<absl::StatusOr<v1::Job>(Connection&, const std::string& job_id)>& action) {
  NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
  int exit_code = 0;
  nlohmann::ordered_json changed = nlohmann::ordered_json::array();
  for (const std::string& reference : references) {
    const absl::StatusOr<std::string> id = FindJobId(*connection, reference);
    const absl::StatusOr<v1::Job> job =
        id.ok() ? action(*connection, *id) : absl::StatusOr<v1::Job>(id.status());
    if (!job.ok()) {
      PrintError(session.terminal(), job.status());
      if (exit_code == 0) exit_code = ExitCodeOf(job.status());
    } else if (session.structured()) {
      changed.push_back(MessageJson(*job));
    } else {
      session.out() << Safe(job->job_id()) << " " << StateName(job->state()) << std::endl;
    }
  }
  if (session.structured()) {
    PrintStructured(session, references.size() == 1 && changed.size() == 1 ? changed[0] : changed);
  }
  return exit_code;
}

}  // namespace nibble::client
