#include "client/help.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/command_line.h"

namespace nibble::client {
namespace {

constexpr int kLargestHelpWidth = 100;

constexpr char kExitCodes[] =
    "  0    done\n"
    "  1    a job that was waited for failed or was cancelled\n"
    "  2    wrong command line, unreadable file or invalid spec\n"
    "  3    there is no such job\n"
    "  4    refused: wrong state, no permission, exists already, over a limit\n"
    "  5    no answer from the daemon in time\n"
    "  70   an error inside nibble\n"
    "  130  interrupted\n";

int HelpWidth(const Terminal& terminal) { return std::min(terminal.columns, kLargestHelpWidth); }

// Words of `text` in lines of at most `width` columns, all but the first after `indent` spaces.
std::string Wrap(absl::string_view text, int width, int indent) {
  std::string out;
  int column = indent;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const int length = DisplayWidth(word);
    if (column > indent && column + 1 + length > width) {
      absl::StrAppend(&out, "\n", std::string(indent, ' '));
      column = indent;
    }
    absl::StrAppend(&out, column > indent ? " " : "", word);
    column += length + (column > indent ? 1 : 0);
  }
  return out;
}

std::string Left(const Option& option) {
  std::string names = absl::StrJoin(absl::StrSplit(option.names, ','), ", ");
  if (!option.positional() && !absl::StartsWith(names, "-o") && absl::StartsWith(names, "--")) {
    names = "    " + names;
  }
  return option.value_name.empty() ? names : absl::StrCat(names, " ", option.value_name);
}

void PrintOptions(const Terminal& terminal, const std::vector<Option>& options) {
  int width = 0;
  for (const Option& option : options) width = std::max(width, DisplayWidth(Left(option)));
  for (const Option& option : options) {
    *terminal.out << "  " << PadRight(Left(option), width) << "  "
                  << Wrap(option.help, HelpWidth(terminal), width + 4) << "\n";
  }
}

std::string Heading(const Terminal& terminal, absl::string_view text) {
  return Paint(terminal, Color::kBold, text);
}

std::string Usage(const VerbText& text, const std::vector<Option>& options) {
  std::string usage = absl::StrCat("nibble ", text.name);
  for (const Option& option : options) {
    if (!option.positional()) continue;
    const bool many = std::holds_alternative<std::vector<std::string>*>(option.target);
    const std::string name = absl::StrCat(option.names, many ? "..." : "");
    absl::StrAppend(&usage, " ", option.required ? name : absl::StrCat("[", name, "]"));
  }
  return absl::StrCat(usage, " [options]");
}

}  // namespace

void PrintHelp(const Terminal& terminal, const std::vector<std::unique_ptr<Verb>>& verbs,
               const std::string& group) {
  std::ostream& out = *terminal.out;
  const std::string prefix = group.empty() ? "" : group + " ";
  if (group.empty()) {
    out << "nibble trains language models in 4 bits: it talks to nibbled, which runs the jobs.\n\n";
  }
  out << Heading(terminal, "Usage") << "\n  nibble " << prefix << "VERB [options]\n\n"
      << Heading(terminal, "Verbs") << "\n";
  size_t width = 0;
  for (const auto& verb : verbs) width = std::max(width, std::string(verb->text().name).size());
  for (const auto& verb : verbs) {
    if (!absl::StartsWith(verb->text().name, prefix)) continue;
    out << "  " << PadRight(verb->text().name, static_cast<int>(width)) << "  "
        << verb->text().summary << "\n";
  }
  if (!group.empty()) return;
  GlobalOptions unused;
  out << "\n" << Heading(terminal, "Options of every verb") << "\n";
  PrintOptions(terminal, GlobalOptionList(&unused));
  out << "\n"
      << Heading(terminal, "Exit codes") << "\n"
      << kExitCodes << "\n"
      << Heading(terminal, "First steps") << "\n"
      << "  nibble data prepare --name kjv bible.txt     # text → tokens\n"
      << "  nibble submit deploy/examples/kjv-nvfp4.yaml --watch\n"
      << "  nibble VERB --help                           # what a verb does, with examples\n\n"
      << "Settings that repeat go to ~/.config/nibble/config.yaml (server, timeout, output,\n"
      << "tls_ca, tls_cert, tls_key). JOB is a job's id, the beginning of one, or its name.\n";
}

void PrintVerbHelp(const Terminal& terminal, Verb& verb) {
  std::ostream& out = *terminal.out;
  const VerbText text = verb.text();
  std::vector<Option> options = verb.options();
  out << Heading(terminal, "Usage") << "\n  " << Usage(text, options) << "\n\n"
      << Wrap(text.description, HelpWidth(terminal), 0) << "\n";
  if (!options.empty()) {
    out << "\n" << Heading(terminal, "Options") << "\n";
    PrintOptions(terminal, options);
  }
  if (!text.formats.empty()) {
    out << "\nOutput formats (-o): " << absl::StrJoin(text.formats, ", ") << ". ";
  } else {
    out << "\n";
  }
  out << "`nibble --help` lists the options of every verb.\n";
  if (*text.examples != '\0') {
    out << "\n" << Heading(terminal, "Examples") << "\n";
    for (const absl::string_view line : absl::StrSplit(text.examples, '\n')) {
      out << "  " << line << "\n";
    }
  }
}

}  // namespace nibble::client
