#include "base/version.h"

#include "client/commands/commands.h"
#include "client/message_text.h"
#include "nlohmann/json.hpp"

namespace nibble::client {
namespace {

class VersionVerb : public Verb {
 public:
  VerbText text() const override {
    return {"version",
            "Version of this program",
            "Prints the version of this program and the commit it was built from. Asks nobody; "
            "`nibble info` shows the daemon's.",
            "nibble version\nnibble version -o json",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override { return {}; }

  absl::StatusOr<int> Run(Session& session) override {
    if (!session.structured()) {
      session.out() << "nibble " << kVersion << " (" << kCommit << ")\n";
      return 0;
    }
    const nlohmann::ordered_json value = {{"version", kVersion}, {"commit", kCommit}};
    session.out() << (session.format() == "json" ? JsonText(value) : YamlText(value));
    return 0;
  }
};

}  // namespace

std::unique_ptr<Verb> MakeVersionVerb() { return std::make_unique<VersionVerb>(); }

}  // namespace nibble::client
