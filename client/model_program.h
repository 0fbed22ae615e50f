// Verbs that `nibble-model` does: it lies beside `nibble`, which becomes it.
#ifndef CLIENT_MODEL_PROGRAM_H_
#define CLIENT_MODEL_PROGRAM_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/session.h"
#include "client/verb.h"

namespace nibble::client {

// Options that are handed on as they were given.
class PassedOptions {
 public:
  // Any may come several times. An option with an empty value_name is a flag.
  void Add(std::string name, std::string value_name, std::string help,
           std::vector<std::string> choices = {}, Completion completion = Completion::kNone);

  std::vector<Option> options();
  // "--name=value" for every one given.
  std::vector<std::string> Arguments() const;

 private:
  struct Passed {
    Option declared;
    std::vector<std::string> values;
    bool flag = false;
  };
  std::vector<Passed> passed_;
};

// The directory of a checkpoint: `reference` itself where it is one, else the newest committed
// checkpoint of the job that it names. NOT_FOUND: no such job, or it has no checkpoint;
// FAILED_PRECONDITION: its checkpoints lie on another machine.
absl::StatusOr<std::string> FindCheckpoint(Session& session, const std::string& reference);

// Becomes nibble-model with these arguments; returns only where that fails. NOT_FOUND: it does not
// lie beside this program.
absl::Status BecomeModelProgram(Session& session, const std::vector<std::string>& arguments);

}  // namespace nibble::client

#endif  // CLIENT_MODEL_PROGRAM_H_
