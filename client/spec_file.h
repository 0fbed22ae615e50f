// The spec that `submit` and `validate` work on: a file and what the command line changes in it.
#ifndef CLIENT_SPEC_FILE_H_
#define CLIENT_SPEC_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/session.h"
#include "nibble/v1/job.pb.h"

namespace nibble::client {

struct SpecSource {
  // Path of a YAML, JSON or text proto document (by its name), or "-" for YAML (or JSON, which is
  // YAML) on standard input. Empty: an empty spec.
  std::string file;
  // "training.steps=100": a field's path and its new value; an empty value clears the field.
  std::vector<std::string> changes;
  // Replaces `name` where not empty.
  std::string name;
};

// Options of `source` for a verb's list, FILE first.
struct Option;
std::vector<Option> SpecOptions(SpecSource* source);

// INVALID_ARGUMENT with every wrong field in the details (client/status.h), or where the file
// cannot be read. What is left open stays open: the daemon (or ResolveJob) fills it in.
absl::StatusOr<v1::JobSpec> ReadSpec(Session& session, const SpecSource& source);

// Makes one change, "PATH=VALUE" as --set takes it. INVALID_ARGUMENT as above.
absl::Status ApplyChange(const std::string& change, v1::JobSpec* spec);

}  // namespace nibble::client

#endif  // CLIENT_SPEC_FILE_H_
