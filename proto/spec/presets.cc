#include "proto/spec/job_resolution.h"

namespace nibble::spec {
namespace {

struct Dimensions {
  int vocab_size;
  int width;
  int blocks;
  int heads;
  int kv_heads;
  int mlp_width;
  bool tied_embeddings;
};

// head_size stays open, so that it follows a job's own width and heads.
ModelPreset MakePreset(const char* name, const char* description, const Dimensions& dimensions) {
  ModelPreset preset;
  preset.name = name;
  preset.description = description;
  preset.model.set_family("llama");
  preset.model.set_preset(name);
  preset.model.set_vocab_size(dimensions.vocab_size);
  preset.model.set_width(dimensions.width);
  preset.model.set_blocks(dimensions.blocks);
  preset.model.set_heads(dimensions.heads);
  preset.model.set_kv_heads(dimensions.kv_heads);
  preset.model.set_mlp_width(dimensions.mlp_width);
  preset.model.set_tied_embeddings(dimensions.tied_embeddings);
  return preset;
}

}  // namespace

const std::vector<ModelPreset>& ModelPresets() {
  static const auto* presets = new std::vector<ModelPreset>{
      MakePreset("llama-tiny", "0.23 M parameters, bytes; seconds a run, for tests",
                 {.vocab_size = 256,
                  .width = 64,
                  .blocks = 4,
                  .heads = 4,
                  .kv_heads = 2,
                  .mlp_width = 192,
                  .tied_embeddings = false}),
      MakePreset("llama-2m", "1.9 M parameters, bytes; minutes a run on two cores",
                 {.vocab_size = 256,
                  .width = 192,
                  .blocks = 4,
                  .heads = 6,
                  .kv_heads = 6,
                  .mlp_width = 512,
                  .tied_embeddings = false}),
      MakePreset("llama-10m", "9.6 M parameters, bytes; an hour on a laptop",
                 {.vocab_size = 256,
                  .width = 384,
                  .blocks = 6,
                  .heads = 6,
                  .kv_heads = 2,
                  .mlp_width = 1024,
                  .tied_embeddings = false}),
      MakePreset("llama-50m", "50.6 M parameters, bytes; deep and narrow",
                 {.vocab_size = 256,
                  .width = 512,
                  .blocks = 16,
                  .heads = 8,
                  .kv_heads = 4,
                  .mlp_width = 1536,
                  .tied_embeddings = false}),
      MakePreset("llama-124m", "123.6 M parameters, GPT-2 tokens, tied; GPT-2 small's size",
                 {.vocab_size = 50257,
                  .width = 768,
                  .blocks = 12,
                  .heads = 12,
                  .kv_heads = 12,
                  .mlp_width = 2048,
                  .tied_embeddings = true}),
  };
  return *presets;
}

}  // namespace nibble::spec
