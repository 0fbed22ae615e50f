#include "client/parser.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/command_line.h"
#include "client/terminal.h"

namespace nibble::client {
namespace {

void AddOption(CLI::App& app, const Option& option) {
  CLI::Option* added = nullptr;
  if (auto* flag = std::get_if<bool*>(&option.target)) {
    added = app.add_flag(option.names, **flag);
  } else if (auto* list = std::get_if<std::vector<std::string>*>(&option.target)) {
    added = app.add_option(option.names, **list);
    // One value for each --set; a positional list takes all that follow.
    if (!option.positional()) added->expected(1)->allow_extra_args(false)->take_all();
  } else {
    std::visit(
        [&](auto* target) {
          if constexpr (!std::is_same_v<decltype(target), bool*>) {
            added = app.add_option(option.names, *target);
          }
        },
        option.target);
  }
  if (option.required) added->required();
  if (!option.choices.empty()) {
    const std::vector<std::string> choices = option.choices;
    added->check([choices](const std::string& value) {
      if (std::find(choices.begin(), choices.end(), value) != choices.end()) return std::string();
      return absl::StrCat("is \"", Safe(value), "\"; allowed: ", absl::StrJoin(choices, ", "));
    });
  }
}

// The parser's tree: a subcommand a verb, with "data" as parent of "data prepare".
class Parser {
 public:
  Parser(const std::vector<std::unique_ptr<Verb>>& verbs, GlobalOptions* options) {
    app_.set_help_flag("");
    app_.add_flag("-h,--help", help_);
    app_.add_flag("--version", version_);
    app_.require_subcommand(0, 1);
    app_.failure_message(
        [](const CLI::App*, const CLI::Error& e) { return std::string(e.what()); });
    for (const Option& option : GlobalOptionList(options)) AddOption(app_, option);
    for (const auto& verb : verbs) AddVerb(*verb);
  }

  ParsedLine Parse(const std::vector<std::string>& arguments) {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    ParsedLine line;
    try {
      app_.parse(reversed);
    } catch (const CLI::Error& error) {
      line.problem = error.what();
    }
    line.help = help_;
    line.version = version_;
    for (const auto& [name, app] : by_name_) {
      if (app->parsed() && name.size() > line.verb.size()) line.verb = name;
    }
    // `nibble submit --help` is right even though FILE is missing.
    if (help_) line.problem.clear();
    return line;
  }

 private:
  CLI::App* Subcommand(const std::string& name) {
    const auto found = by_name_.find(name);
    if (found != by_name_.end()) return found->second;
    const size_t space = name.rfind(' ');
    CLI::App* parent = space == std::string::npos ? &app_ : Subcommand(name.substr(0, space));
    CLI::App* app = parent->add_subcommand(name.substr(space + 1));
    app->set_help_flag("");
    app->add_flag("-h,--help", help_);
    app->fallthrough();
    return by_name_[name] = app;
  }

  void AddVerb(Verb& verb) {
    CLI::App* app = Subcommand(verb.text().name);
    for (const Option& option : verb.options()) AddOption(*app, option);
  }

  CLI::App app_;
  std::map<std::string, CLI::App*> by_name_;
  bool help_ = false;
  bool version_ = false;
};

}  // namespace

ParsedLine ParseLine(const std::vector<std::unique_ptr<Verb>>& verbs,
                     const std::vector<std::string>& arguments, GlobalOptions* options) {
  return Parser(verbs, options).Parse(arguments);
}

}  // namespace nibble::client
