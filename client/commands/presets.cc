#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/message_text.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_resolution.h"

namespace nibble::client {
namespace {

class PresetsVerb : public Verb {
 public:
  VerbText text() const override {
    return {"presets",
            "Named model sizes for model.preset",
            "Lists the values that model.preset takes and the dimensions they stand for. Fields of "
            "the spec override those of its preset. Asks nobody: the presets are in this program.",
            "nibble presets\nnibble submit job.yaml --set model.preset=NAME",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override { return {}; }

  absl::StatusOr<int> Run(Session& session) override {
    if (session.structured()) {
      nlohmann::ordered_json value = nlohmann::ordered_json::array();
      for (const spec::ModelPreset& preset : spec::ModelPresets()) {
        value.push_back({{"name", preset.name},
                         {"description", preset.description},
                         {"model", MessageJson(preset.model)}});
      }
      PrintStructured(session, value);
      return 0;
    }
    Table table({{"PRESET"},
                 {"BLOCKS", true},
                 {"WIDTH", true},
                 {"MLP", true},
                 {"HEADS", true},
                 {"KV HEADS", true},
                 {"VOCABULARY", true},
                 {"DESCRIPTION"}});
    for (const spec::ModelPreset& preset : spec::ModelPresets()) {
      const v1::ModelSpec& model = preset.model;
      const auto number = [](bool present, int64_t value) {
        return present ? Grouped(value) : std::string("-");
      };
      table.Add({preset.name, number(model.has_blocks(), model.blocks()),
                 number(model.has_width(), model.width()),
                 number(model.has_mlp_width(), model.mlp_width()),
                 number(model.has_heads(), model.heads()),
                 model.has_kv_heads() ? number(true, model.kv_heads())
                                      : number(model.has_heads(), model.heads()),
                 number(model.has_vocab_size(), model.vocab_size()), preset.description});
    }
    table.Print(session.terminal());
    return 0;
  }
};

}  // namespace

std::unique_ptr<Verb> MakePresetsVerb() { return std::make_unique<PresetsVerb>(); }

}  // namespace nibble::client
