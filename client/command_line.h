// `nibble`: finds the verb, parses its options, runs it, prints its error.
#ifndef CLIENT_COMMAND_LINE_H_
#define CLIENT_COMMAND_LINE_H_

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "client/terminal.h"
#include "client/verb.h"

namespace nibble::client {

// Runs one command line (without the program's name) and returns the exit code.
int RunCommandLine(const std::vector<std::string>& arguments, Terminal& terminal,
                   const Clock& clock);

// Options of every verb (--server, -o, ...), parsed into *options.
std::vector<Option> GlobalOptionList(GlobalOptions* options);

}  // namespace nibble::client

#endif  // CLIENT_COMMAND_LINE_H_
