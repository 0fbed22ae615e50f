#include "client/model_program.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "client/job_reference.h"
#include "client/text.h"

namespace nibble::client {

void PassedOptions::Add(std::string name, std::string value_name, std::string help,
                        std::vector<std::string> choices, Completion completion) {
  Passed& passed = passed_.emplace_back();
  passed.declared.names = std::move(name);
  passed.declared.value_name = std::move(value_name);
  passed.declared.help = std::move(help);
  passed.declared.choices = std::move(choices);
  passed.declared.completion = completion;
}

std::vector<Option> PassedOptions::options() {
  std::vector<Option> options;
  for (Passed& passed : passed_) {
    Option option = passed.declared;
    if (option.value_name.empty()) {
      option.target = &passed.flag;
    } else {
      option.target = &passed.values;
    }
    options.push_back(std::move(option));
  }
  return options;
}

std::vector<std::string> PassedOptions::Arguments() const {
  std::vector<std::string> arguments;
  for (const Passed& passed : passed_) {
    if (passed.flag) arguments.push_back(passed.declared.names);
    for (const std::string& value : passed.values) {
      arguments.push_back(absl::StrCat(passed.declared.names, "=", value));
    }
  }
  return arguments;
}

absl::StatusOr<std::string> FindCheckpoint(Session& session, const std::string& reference) {
  if (FileExists(JoinPath(reference, "manifest.json"))) return reference;
  if (reference.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(Safe(reference), " is no checkpoint directory"));
  }
  NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
  NIBBLE_ASSIGN_OR_RETURN(const std::string id, FindJobId(*connection, reference));
  NIBBLE_ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse listed,
                          connection->ListCheckpoints(id));
  if (listed.checkpoints().empty()) {
    return absl::NotFoundError(absl::StrCat("job ", id, " has no committed checkpoint"));
  }
  const std::string path = listed.checkpoints(0).path();
  if (FileExists(JoinPath(path, "manifest.json"))) return path;
  return absl::FailedPreconditionError(absl::StrCat(
      "the newest checkpoint of job ", id, " is ", Safe(path),
      " on its worker's file system, which this machine does not see: run this command there"));
}

absl::Status BecomeModelProgram(Session& session, const std::vector<std::string>& arguments) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError(absl::StrCat("/proc/self/exe: ", error.message()));
  const std::string program = (self.parent_path() / "nibble-model").string();
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  session.out().flush();
  session.err().flush();
  execv(program.c_str(), argv.data());
  return ErrnoStatus(errno, "run", program);
}

}  // namespace nibble::client
