#include "client/commands/commands.h"
#include "client/completion_script.h"

namespace nibble::client {
namespace {

class CompletionVerb : public Verb {
 public:
  VerbText text() const override {
    return {"completion",
            "Shell completion for bash, zsh or fish",
            "Prints a script that teaches a shell to complete verbs, options, files and the names "
            "of jobs.",
            "source <(nibble completion bash)           # in ~/.bashrc\n"
            "source <(nibble completion zsh)            # in ~/.zshrc, after compinit\n"
            "nibble completion fish > ~/.config/fish/completions/nibble.fish",
            {}};
  }
  std::vector<Option> options() override {
    return {{"SHELL", "", "bash, zsh or fish", &shell_, true, {"bash", "zsh", "fish"}}};
  }

  absl::StatusOr<int> Run(Session& session) override {
    const std::vector<std::unique_ptr<Verb>> verbs = AllVerbs();
    session.out() << (shell_ == "bash"  ? BashCompletion(verbs)
                      : shell_ == "zsh" ? ZshCompletion(verbs)
                                        : FishCompletion(verbs));
    return 0;
  }

 private:
  std::string shell_;
};

}  // namespace

std::unique_ptr<Verb> MakeCompletionVerb() { return std::make_unique<CompletionVerb>(); }

}  // namespace nibble::client
