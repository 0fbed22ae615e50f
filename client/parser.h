// Parses command lines with CLI11, which only this module includes.
#ifndef CLIENT_PARSER_H_
#define CLIENT_PARSER_H_

#include <memory>
#include <string>
#include <vector>

#include "client/session.h"
#include "client/verb.h"

namespace nibble::client {

struct ParsedLine {
  // Name of the verb as far as it was recognised: "", "data" or "data prepare".
  std::string verb;
  bool help = false;
  bool version = false;
  // What is wrong with the command line; empty where nothing is, and where help was asked for.
  std::string problem;
};

// Parses `arguments` into the targets of the verb's options and *options.
ParsedLine ParseLine(const std::vector<std::unique_ptr<Verb>>& verbs,
                     const std::vector<std::string>& arguments, GlobalOptions* options);

}  // namespace nibble::client

#endif  // CLIENT_PARSER_H_
