#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/message_text.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_resolution.h"

namespace nibble::client {
namespace {

// The preset as a job with every other field left out has it.
absl::StatusOr<spec::ResolvedJob> Resolved(const spec::ModelPreset& preset) {
  v1::JobSpec job;
  job.set_name("preset");
  job.mutable_model()->set_preset(preset.name);
  job.mutable_data()->set_path("data");
  job.mutable_training()->set_steps(1);
  return spec::ResolveJob(job, /*errors=*/nullptr);
}

class PresetsVerb : public Verb {
 public:
  VerbText text() const override {
    return {"presets",
            "Named model sizes for model.preset",
            "Lists the values that model.preset takes, the dimensions they stand for, and what a "
            "job with defaults for all else needs. Fields of the spec override those of its "
            "preset. Asks nobody: the presets are in this program.",
            "nibble presets\nnibble submit job.yaml --set model.preset=NAME",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override { return {}; }

  absl::StatusOr<int> Run(Session& session) override {
    if (session.structured()) {
      nlohmann::ordered_json value = nlohmann::ordered_json::array();
      for (const spec::ModelPreset& preset : spec::ModelPresets()) {
        NIBBLE_ASSIGN_OR_RETURN(const spec::ResolvedJob job, Resolved(preset));
        value.push_back({{"name", preset.name},
                         {"description", preset.description},
                         {"parameters", job.parameters},
                         {"flops_per_token", job.flops_per_token},
                         {"memory_bytes", job.memory.total()},
                         {"model", MessageJson(preset.model)}});
      }
      PrintStructured(session, value);
      return 0;
    }
    Table table({{"PRESET"},
                 {"FAMILY"},
                 {"PARAMETERS", true},
                 {"BLOCKS", true},
                 {"WIDTH", true},
                 {"MLP", true},
                 {"HEADS", true},
                 {"KV HEADS", true},
                 {"VOCABULARY", true},
                 {"FLOPS/TOKEN", true},
                 {"MEMORY", true},
                 {"DESCRIPTION"}});
    for (const spec::ModelPreset& preset : spec::ModelPresets()) {
      NIBBLE_ASSIGN_OR_RETURN(const spec::ResolvedJob job, Resolved(preset));
      const v1::ModelSpec& model = job.spec.model();
      table.Add({preset.name, model.family(), Grouped(job.parameters), Grouped(model.blocks()),
                 Grouped(model.width()), Grouped(model.mlp_width()), Grouped(model.heads()),
                 Grouped(model.kv_heads()), Grouped(model.vocab_size()), Short(job.flops_per_token),
                 Bytes(job.memory.total()), preset.description});
    }
    table.Print(session.terminal());
    return 0;
  }
};

}  // namespace

std::unique_ptr<Verb> MakePresetsVerb() { return std::make_unique<PresetsVerb>(); }

}  // namespace nibble::client
