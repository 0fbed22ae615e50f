// Shell completion scripts, made from the verbs' declarations.
#ifndef CLIENT_COMPLETION_SCRIPT_H_
#define CLIENT_COMPLETION_SCRIPT_H_

#include <memory>
#include <string>
#include <vector>

#include "client/verb.h"

namespace nibble::client {

// Scripts complete verbs, options, their choices, files, and job names by asking the daemon
// (`nibble list`, at most 2 s). For .bashrc, .zshrc and fish's completions directory.
std::string BashCompletion(const std::vector<std::unique_ptr<Verb>>& verbs);
std::string ZshCompletion(const std::vector<std::unique_ptr<Verb>>& verbs);
std::string FishCompletion(const std::vector<std::unique_ptr<Verb>>& verbs);

}  // namespace nibble::client

#endif  // CLIENT_COMPLETION_SCRIPT_H_
