#include "client/command_line.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/help.h"
#include "client/parser.h"
#include "client/status.h"
#include "client/text.h"

namespace nibble::client {
namespace {

// "; did you mean `list`?" for the first word that is no verb, or "".
std::string Suggestion(const std::vector<std::unique_ptr<Verb>>& verbs, const std::string& word) {
  int best_distance = 3;
  std::string best;
  for (const auto& verb : verbs) {
    const std::string name = std::vector<std::string>(absl::StrSplit(verb->text().name, ' '))[0];
    const int distance = absl::StartsWith(name, word) ? 0 : EditDistance(name, word);
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  }
  return best.empty() ? "" : absl::StrCat("; did you mean `", best, "`?");
}

int UsageError(const Terminal& terminal, absl::string_view problem, const std::string& verb) {
  *terminal.err << "error: " << Safe(problem) << "\n"
                << "See `nibble " << (verb.empty() ? "" : verb + " ") << "--help`.\n";
  return kExitUsage;
}

// The first argument that is neither an option nor a global option's value.
std::string FirstWord(const std::vector<std::string>& arguments) {
  GlobalOptions unused;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!absl::StartsWith(arguments[i], "-")) return arguments[i];
    for (const Option& option : GlobalOptionList(&unused)) {
      const std::vector<std::string> names = absl::StrSplit(option.names, ',');
      if (std::find(names.begin(), names.end(), arguments[i]) != names.end()) ++i;
    }
  }
  return "";
}

// The format of this run, from -o, the configuration file or the verb's default.
absl::Status ChooseFormat(const VerbText& text, const GlobalOptions& options, Session& session) {
  const auto& formats = text.formats;
  const bool known = std::find(formats.begin(), formats.end(), session.format()) != formats.end();
  if (known) return absl::OkStatus();
  if (!options.format.empty()) {
    return absl::InvalidArgumentError(
        formats.empty() ? absl::StrCat("`", text.name, "` takes no -o")
                        : absl::StrCat("-o is \"", options.format, "\"; allowed for `", text.name,
                                       "`: ", absl::StrJoin(formats, ", ")));
  }
  session.set_format(formats.empty() ? "" : formats[0]);
  return absl::OkStatus();
}

int RunVerb(Verb& verb, const GlobalOptions& options, Session& session) {
  absl::Status prepared = session.Resolve(options);
  if (prepared.ok()) prepared = ChooseFormat(verb.text(), options, session);
  absl::StatusOr<int> result = 0;
  if (prepared.ok()) {
    result = verb.Run(session);
  } else {
    result = prepared;
  }
  session.out().flush();
  if (result.ok()) return *result;
  PrintError(session.terminal(), result.status());
  return ExitCodeOf(result.status());
}

}  // namespace

std::vector<Option> GlobalOptionList(GlobalOptions* options) {
  return {
      {"--server", "ADDRESS",
       "Daemon: HOST[:PORT] or unix:PATH. Default: $NIBBLE_SERVER, the configuration file, "
       "127.0.0.1:7878",
       &options->server},
      {"--timeout", "TIME", "Deadline of each call: 500ms, 10s, 2m. Default 10s",
       &options->timeout},
      {"-o,--output",
       "FORMAT",
       "table, wide, json or yaml; metrics also csv, generate text or ids",
       &options->format,
       false,
       {"table", "wide", "json", "yaml", "csv", "text", "ids"}},
      {"--tls-ca",
       "FILE",
       "Use TLS and trust this authority (PEM)",
       &options->tls_ca,
       false,
       {},
       Completion::kFile},
      {"--tls-cert",
       "FILE",
       "Certificate that shows who you are (PEM)",
       &options->tls_cert,
       false,
       {},
       Completion::kFile},
      {"--tls-key",
       "FILE",
       "Key of --tls-cert (PEM)",
       &options->tls_key,
       false,
       {},
       Completion::kFile},
  };
}

int RunCommandLine(const std::vector<std::string>& arguments, Terminal& terminal,
                   const Clock& clock) {
  const std::vector<std::unique_ptr<Verb>> verbs = AllVerbs();
  GlobalOptions options;
  // `nibble help submit` is `nibble submit --help`.
  std::vector<std::string> words = arguments;
  if (!words.empty() && words[0] == "help") {
    words.erase(words.begin());
    words.push_back("--help");
  }
  const ParsedLine line = ParseLine(verbs, words, &options);
  std::string name = line.verb;
  if (!line.problem.empty()) {
    const std::string word = FirstWord(words);
    if (name.empty() && !word.empty()) {
      return UsageError(terminal,
                        absl::StrCat("there is no verb `", word, "`", Suggestion(verbs, word)), "");
    }
    return UsageError(terminal, line.problem, name);
  }
  if (line.version) name = "version";
  const auto found = std::find_if(verbs.begin(), verbs.end(),
                                  [&](const auto& verb) { return verb->text().name == name; });
  if (line.help || found == verbs.end()) {
    const bool asked = line.help;
    if (found != verbs.end()) {
      PrintVerbHelp(terminal, **found);
      return kExitDone;
    }
    std::ostream* const out = terminal.out;
    if (!asked) terminal.out = terminal.err;
    PrintHelp(terminal, verbs, name);
    terminal.out = out;
    return asked ? kExitDone : kExitUsage;
  }
  Session session(&terminal, &clock);
  return RunVerb(**found, options, session);
}

}  // namespace nibble::client
