// A verb of the command line: what it is called, which options it takes, what it does.
#ifndef CLIENT_VERB_H_
#define CLIENT_VERB_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "client/session.h"

namespace nibble::client {

// What a shell completes a value with.
enum class Completion { kNone, kFile, kDirectory, kJob };

// One option, flag or positional argument. Knows nothing of the parser, so that help text and
// completion scripts come from the same declaration.
struct Option {
  // "-f,--follow" or "--name"; a positional argument has a bare upper-case name: "JOB".
  std::string names;
  // What the value is called in help, e.g. "N"; empty for flags and positionals.
  std::string value_name;
  std::string help;
  // Where the parsed value goes. Not owned. A vector takes every occurrence.
  std::variant<bool*, int64_t*, uint64_t*, double*, std::string*, std::vector<std::string>*> target;
  bool required = false;
  std::vector<std::string> choices = {};
  Completion completion = Completion::kNone;

  bool positional() const { return names[0] != '-'; }
  bool flag() const { return std::holds_alternative<bool*>(target); }
};

// Names and texts of a verb; all static.
struct VerbText {
  // "submit", or "data prepare" for a verb under another.
  const char* name;
  // One line, for the list of verbs.
  const char* summary;
  // A paragraph, for `nibble VERB --help`.
  const char* description;
  // Command lines, one a line, with comments.
  const char* examples;
  // Formats that -o takes, the default first; empty where the verb has no -o.
  std::vector<std::string> formats;
};

class Verb {
 public:
  virtual ~Verb() = default;
  virtual VerbText text() const = 0;
  // Options in the order in which help shows them; targets live in the verb.
  virtual std::vector<Option> options() = 0;
  // The exit code, or the error to print.
  virtual absl::StatusOr<int> Run(Session& session) = 0;
};

}  // namespace nibble::client

#endif  // CLIENT_VERB_H_
