#include "client/completion_script.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "client/command_line.h"

namespace nibble::client {
namespace {

// Words that complete a JOB: names and ids of the newest jobs.
constexpr char kJobsCommand[] =
    "nibble list -o table --limit 200 --timeout 2s 2>/dev/null | awk 'NR>1 {print $2; print $1}' | "
    "sort -u";

std::string Quote(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

std::vector<std::string> Names(const Option& option) { return absl::StrSplit(option.names, ','); }

std::vector<Option> WithGlobal(Verb& verb) {
  // The parsed values go nowhere: scripts only need the names.
  static auto* const unused = new GlobalOptions;
  std::vector<Option> options = verb.options();
  for (Option& option : GlobalOptionList(unused)) options.push_back(std::move(option));
  return options;
}

// First words, each once, in order: "submit", ..., "data", ...
std::vector<std::string> FirstWords(const std::vector<std::unique_ptr<Verb>>& verbs) {
  std::vector<std::string> words;
  for (const auto& verb : verbs) {
    const std::string word = std::vector<std::string>(absl::StrSplit(verb->text().name, ' '))[0];
    if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
  }
  return words;
}

// Second words under `first`, e.g. "prepare inspect" under "data".
std::vector<std::string> SecondWords(const std::vector<std::unique_ptr<Verb>>& verbs,
                                     const std::string& first) {
  std::vector<std::string> words;
  for (const auto& verb : verbs) {
    absl::string_view name = verb->text().name;
    if (absl::StartsWith(name, first + " ")) words.emplace_back(name.substr(first.size() + 1));
  }
  return words;
}

// What the bash script runs to complete a value; COMPREPLY from $cur.
std::string BashValue(const Option& option) {
  if (!option.choices.empty()) {
    return absl::StrCat("COMPREPLY=($(compgen -W ", Quote(absl::StrJoin(option.choices, " ")),
                        " -- \"$cur\"))");
  }
  switch (option.completion) {
    case Completion::kFile:
      return "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\"))";
    case Completion::kDirectory:
      return "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\"))";
    case Completion::kJob:
      return "COMPREPLY=($(compgen -W \"$(_nibble_jobs)\" -- \"$cur\"))";
    case Completion::kNone:
      return "COMPREPLY=()";
  }
  return "";
}

std::string BashVerb(Verb& verb) {
  std::string out = absl::StrCat("    ", Quote(verb.text().name), ")\n      case \"$prev\" in\n");
  std::vector<std::string> words = {"--help"};
  std::string positional = "COMPREPLY=()";
  for (const Option& option : WithGlobal(verb)) {
    if (option.positional()) {
      positional = BashValue(option);
      continue;
    }
    for (const std::string& name : Names(option)) words.push_back(name);
    if (option.flag()) continue;
    absl::StrAppend(&out, "        ", absl::StrJoin(Names(option), "|"), ") ", BashValue(option),
                    "; return ;;\n");
  }
  absl::StrAppend(&out,
                  "      esac\n      if [[ $cur == -* ]]; then\n        COMPREPLY=($(compgen -W ",
                  Quote(absl::StrJoin(words, " ")), " -- \"$cur\"))\n      else\n        ",
                  positional, "\n      fi ;;\n");
  return out;
}

std::string ZshValue(const Option& option) {
  if (!option.choices.empty()) return absl::StrCat("(", absl::StrJoin(option.choices, " "), ")");
  switch (option.completion) {
    case Completion::kFile:
      return "_files";
    case Completion::kDirectory:
      return "_files -/";
    case Completion::kJob:
      return "_nibble_jobs";
    case Completion::kNone:
      return " ";
  }
  return " ";
}

// Text within an _arguments spec: brackets and colons mean something there.
std::string ZshText(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"[", "\\["}, {"]", "\\]"}, {":", "\\:"}});
}

std::string ZshVerb(Verb& verb) {
  std::string out = absl::StrCat("    ", Quote(verb.text().name), ")\n      _arguments -S \\\n");
  for (const Option& option : WithGlobal(verb)) {
    const bool many = std::holds_alternative<std::vector<std::string>*>(option.target);
    if (option.positional()) {
      absl::StrAppend(
          &out, "        ",
          Quote(absl::StrCat(many ? "*:" : ":", ZshText(option.names), ":", ZshValue(option))),
          " \\\n");
      continue;
    }
    for (const std::string& name : Names(option)) {
      std::string spec = absl::StrCat(many ? "*" : "", name, "[", ZshText(option.help), "]");
      if (!option.flag())
        absl::StrAppend(&spec, ":", ZshText(option.value_name), ":", ZshValue(option));
      absl::StrAppend(&out, "        ", Quote(spec), " \\\n");
    }
  }
  absl::StrAppend(&out, "        '--help[Show help]' ;;\n");
  return out;
}

std::string FishOption(const std::string& condition, const Option& option) {
  std::string out = absl::StrCat("complete -c nibble -n ", Quote(condition));
  if (option.positional()) {
    if (!option.choices.empty()) {
      absl::StrAppend(&out, " -a ", Quote(absl::StrJoin(option.choices, " ")));
    } else if (option.completion == Completion::kJob) {
      absl::StrAppend(&out, " -a '(__nibble_jobs)'");
    } else {
      absl::StrAppend(&out, " -F");
    }
    return out + "\n";
  }
  for (const std::string& name : Names(option)) {
    const bool is_long = absl::StartsWith(name, "--");
    absl::StrAppend(&out, is_long ? " -l " : " -s ", name.substr(is_long ? 2 : 1));
  }
  absl::StrAppend(&out, " -d ", Quote(option.help));
  if (option.flag()) return out + "\n";
  absl::StrAppend(&out, option.completion == Completion::kFile ? " -rF" : " -x");
  if (!option.choices.empty())
    absl::StrAppend(&out, " -a ", Quote(absl::StrJoin(option.choices, " ")));
  if (option.completion == Completion::kDirectory) out += " -a '(__fish_complete_directories)'";
  return out + "\n";
}

}  // namespace

std::string BashCompletion(const std::vector<std::unique_ptr<Verb>>& verbs) {
  std::string out =
      absl::StrCat("# bash completion for nibble\n_nibble_jobs() {\n  ", kJobsCommand, "\n}\n",
                   "_nibble() {\n  local cur=\"${COMP_WORDS[COMP_CWORD]}\" "
                   "prev=\"${COMP_WORDS[COMP_CWORD-1]}\" verb=\"\" i\n"
                   "  COMPREPLY=()\n"
                   "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
                   "    case \"${COMP_WORDS[i]}\" in\n"
                   "      --server|--timeout|-o|--output|--tls-*) ((++i)) ;;\n"
                   "      -*) ;;\n"
                   "      *) if [[ -z $verb ]]; then verb=\"${COMP_WORDS[i]}\";\n"
                   "         elif [[ $verb == data ]]; then verb=\"data ${COMP_WORDS[i]}\"; fi ;;\n"
                   "    esac\n"
                   "  done\n"
                   "  case \"$verb\" in\n");
  absl::StrAppend(&out, "    '') COMPREPLY=($(compgen -W ",
                  Quote(absl::StrCat(absl::StrJoin(FirstWords(verbs), " "), " help --help")),
                  " -- \"$cur\")) ;;\n");
  absl::StrAppend(&out, "    data) COMPREPLY=($(compgen -W ",
                  Quote(absl::StrJoin(SecondWords(verbs, "data"), " ")), " -- \"$cur\")) ;;\n");
  for (const auto& verb : verbs) out += BashVerb(*verb);
  return absl::StrCat(out, "  esac\n}\ncomplete -F _nibble nibble\n");
}

std::string ZshCompletion(const std::vector<std::unique_ptr<Verb>>& verbs) {
  std::string out =
      absl::StrCat("#compdef nibble\n_nibble_jobs() {\n  local -a jobs\n  jobs=(${(f)\"$(",
                   kJobsCommand, ")\"})\n  compadd -a jobs\n}\n",
                   "_nibble() {\n  local verb=\"\"\n  local -a verbs\n  verbs=(\n");
  for (const std::string& word : FirstWords(verbs)) {
    const auto verb = std::find_if(verbs.begin(), verbs.end(),
                                   [&](const auto& v) { return v->text().name == word; });
    const std::string summary = verb != verbs.end() ? (*verb)->text().summary : "Datasets";
    absl::StrAppend(&out, "    ", Quote(absl::StrCat(word, ":", ZshText(summary))), "\n");
  }
  absl::StrAppend(&out,
                  "  )\n"
                  "  if (( CURRENT == 2 )); then _describe verb verbs; return; fi\n"
                  "  verb=\"${words[2]}\"\n"
                  "  shift words; (( CURRENT-- ))\n"
                  "  if [[ $verb == data ]]; then\n"
                  "    if (( CURRENT == 2 )); then compadd ",
                  absl::StrJoin(SecondWords(verbs, "data"), " "),
                  "; return; fi\n"
                  "    verb=\"data ${words[2]}\"\n"
                  "    shift words; (( CURRENT-- ))\n"
                  "  fi\n"
                  "  case \"$verb\" in\n");
  for (const auto& verb : verbs) out += ZshVerb(*verb);
  return absl::StrCat(out, "  esac\n}\ncompdef _nibble nibble\n");
}

std::string FishCompletion(const std::vector<std::unique_ptr<Verb>>& verbs) {
  std::string out = absl::StrCat("# fish completion for nibble\nfunction __nibble_jobs\n  ",
                                 kJobsCommand, "\nend\ncomplete -c nibble -f\n");
  for (const std::string& word : FirstWords(verbs)) {
    const auto verb = std::find_if(verbs.begin(), verbs.end(),
                                   [&](const auto& v) { return v->text().name == word; });
    absl::StrAppend(&out, "complete -c nibble -n __fish_use_subcommand -a ", word, " -d ",
                    Quote(verb != verbs.end() ? (*verb)->text().summary : "Datasets"), "\n");
  }
  const std::vector<std::string> data = SecondWords(verbs, "data");
  absl::StrAppend(&out,
                  "complete -c nibble -n '__fish_seen_subcommand_from data; and not "
                  "__fish_seen_subcommand_from ",
                  absl::StrJoin(data, " "), "' -a ", Quote(absl::StrJoin(data, " ")), "\n");
  for (const auto& verb : verbs) {
    const std::vector<std::string> words = absl::StrSplit(verb->text().name, ' ');
    const std::string condition = absl::StrCat(
        "__fish_seen_subcommand_from ", absl::StrJoin(words, "; and __fish_seen_subcommand_from "));
    for (const Option& option : WithGlobal(*verb)) out += FishOption(condition, option);
  }
  return out;
}

}  // namespace nibble::client
