// Help texts, made from the verbs' declarations.
#ifndef CLIENT_HELP_H_
#define CLIENT_HELP_H_

#include <memory>
#include <string>
#include <vector>

#include "client/terminal.h"
#include "client/verb.h"

namespace nibble::client {

// `nibble --help`: verbs, global options, exit codes. With a group ("data"), its verbs only.
void PrintHelp(const Terminal& terminal, const std::vector<std::unique_ptr<Verb>>& verbs,
               const std::string& group);

// `nibble VERB --help`: usage, description, options, examples.
void PrintVerbHelp(const Terminal& terminal, Verb& verb);

}  // namespace nibble::client

#endif  // CLIENT_HELP_H_
