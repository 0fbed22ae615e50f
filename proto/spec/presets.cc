#include "proto/spec/job_resolution.h"

namespace nibble::spec {
namespace {

// Zero: not given by the preset.
struct Dimensions {
  int vocab_size = 0;
  int width = 0;
  int blocks = 0;
  int heads = 0;
  int kv_heads = 0;
  int mlp_width = 0;
  bool tied_embeddings = false;
  int head_size = 0;  // 0: width / heads, of a job's own width and heads
  double rope_theta = 0;
};

ModelPreset MakePreset(const char* family, const char* name, const char* description,
                       const Dimensions& dimensions) {
  ModelPreset preset;
  preset.name = name;
  preset.description = description;
  v1::ModelSpec& model = preset.model;
  model.set_family(family);
  model.set_preset(name);
  model.set_vocab_size(dimensions.vocab_size);
  model.set_width(dimensions.width);
  model.set_blocks(dimensions.blocks);
  model.set_heads(dimensions.heads);
  model.set_kv_heads(dimensions.kv_heads);
  model.set_mlp_width(dimensions.mlp_width);
  model.set_tied_embeddings(dimensions.tied_embeddings);
  if (dimensions.head_size > 0) model.set_head_size(dimensions.head_size);
  if (dimensions.rope_theta > 0) model.set_rope_theta(dimensions.rope_theta);
  return preset;
}

void AddLlamas(std::vector<ModelPreset>* presets) {
  const auto add = [&](const char* name, const char* description, const Dimensions& dimensions) {
    presets->push_back(MakePreset("llama", name, description, dimensions));
  };
  add("llama-tiny", "0.23 M parameters, bytes; seconds a run, for tests",
      {.vocab_size = 256, .width = 64, .blocks = 4, .heads = 4, .kv_heads = 2, .mlp_width = 192});
  add("llama-2m", "1.9 M parameters, bytes; minutes a run on two cores",
      {.vocab_size = 256, .width = 192, .blocks = 4, .heads = 6, .kv_heads = 6, .mlp_width = 512});
  add("llama-10m", "9.6 M parameters, bytes; an hour on a laptop",
      {.vocab_size = 256, .width = 384, .blocks = 6, .heads = 6, .kv_heads = 2, .mlp_width = 1024});
  add("llama-50m", "50.6 M parameters, bytes; deep and narrow",
      {.vocab_size = 256,
       .width = 512,
       .blocks = 16,
       .heads = 8,
       .kv_heads = 4,
       .mlp_width = 1536});
  add("llama-124m", "123.6 M parameters, GPT-2 tokens, tied; GPT-2 small's size",
      {.vocab_size = 50257,
       .width = 768,
       .blocks = 12,
       .heads = 12,
       .kv_heads = 12,
       .mlp_width = 2048,
       .tied_embeddings = true});
  add("llama-1.1b", "1.10 B parameters; TinyLlama's size",
      {.vocab_size = 32000,
       .width = 2048,
       .blocks = 22,
       .heads = 32,
       .kv_heads = 4,
       .mlp_width = 5632});
  add("llama-3.2-1b", "1.24 B parameters, tied; Llama 3.2 1B's size",
      {.vocab_size = 128256,
       .width = 2048,
       .blocks = 16,
       .heads = 32,
       .kv_heads = 8,
       .mlp_width = 8192,
       .tied_embeddings = true,
       .rope_theta = 500000});
  add("llama-3.2-3b", "3.21 B parameters, tied; Llama 3.2 3B's size",
      {.vocab_size = 128256,
       .width = 3072,
       .blocks = 28,
       .heads = 24,
       .kv_heads = 8,
       .mlp_width = 8192,
       .tied_embeddings = true,
       .rope_theta = 500000});
  add("llama-7b", "6.74 B parameters; Llama 2 7B's size",
      {.vocab_size = 32000,
       .width = 4096,
       .blocks = 32,
       .heads = 32,
       .kv_heads = 32,
       .mlp_width = 11008});
  add("llama-3-8b", "8.03 B parameters; Llama 3 8B's size",
      {.vocab_size = 128256,
       .width = 4096,
       .blocks = 32,
       .heads = 32,
       .kv_heads = 8,
       .mlp_width = 14336,
       .rope_theta = 500000});
}

void AddGpt2s(std::vector<ModelPreset>* presets) {
  const auto add = [&](const char* name, const char* description, int width, int blocks, int heads,
                       int vocab_size) {
    ModelPreset preset = MakePreset("gpt2", name, description,
                                    {.vocab_size = vocab_size,
                                     .width = width,
                                     .blocks = blocks,
                                     .heads = heads,
                                     .kv_heads = heads,
                                     .mlp_width = 4 * width,
                                     .tied_embeddings = true});
    preset.model.set_max_positions(1024);
    presets->push_back(std::move(preset));
  };
  add("gpt2-tiny", "0.28 M parameters, bytes; seconds a run, for tests", 64, 4, 4, 256);
  add("gpt2-10m", "11.1 M parameters, bytes; an hour on a laptop", 384, 6, 6, 256);
  add("gpt2-small", "124.4 M parameters; GPT-2", 768, 12, 12, 50257);
  add("gpt2-medium", "354.8 M parameters", 1024, 24, 16, 50257);
  add("gpt2-large", "774.0 M parameters", 1280, 36, 20, 50257);
  add("gpt2-xl", "1.56 B parameters", 1600, 48, 25, 50257);
}

// The three models of arXiv 2509.25149 with the vocabulary of Nemotron-H, and small ones.
void AddNemotrons(std::vector<ModelPreset>* presets) {
  presets->push_back(MakePreset(
      "nemotron", "nemotron-tiny", "0.21 M parameters, bytes; seconds a run, for tests",
      {.vocab_size = 256, .width = 64, .blocks = 4, .heads = 4, .kv_heads = 2, .mlp_width = 256}));
  presets->push_back(MakePreset("nemotron", "nemotron-10m",
                                "9.6 M parameters, bytes; an hour on a laptop",
                                {.vocab_size = 256,
                                 .width = 384,
                                 .blocks = 6,
                                 .heads = 6,
                                 .kv_heads = 2,
                                 .mlp_width = 1536}));
  presets->push_back(MakePreset("nemotron", "nemotron-1.2b",
                                "1.29 B parameters; the NVFP4 paper's transformer",
                                {.vocab_size = 131072,
                                 .width = 2048,
                                 .blocks = 20,
                                 .heads = 16,
                                 .kv_heads = 8,
                                 .mlp_width = 6144,
                                 .head_size = 128}));
}

void AddHybrids(std::vector<ModelPreset>* presets) {
  const auto add = [&](const char* name, const char* description, const char* pattern,
                       const Dimensions& dimensions) {
    ModelPreset& preset =
        presets->emplace_back(MakePreset("nemotron_h", name, description, dimensions));
    preset.model.set_pattern(pattern);
    // It follows a job's own pattern.
    preset.model.clear_blocks();
    return &preset;
  };
  v1::MambaSpec* tiny =
      add("nemotron-h-tiny", "0.19 M parameters, bytes; seconds a run, for tests", "M-M*-M-",
          {.vocab_size = 256, .width = 64, .heads = 4, .kv_heads = 2, .mlp_width = 128})
          ->model.mutable_mamba();
  tiny->set_head_size(8);
  tiny->set_groups(2);
  tiny->set_state_size(16);
  v1::MambaSpec* small =
      add("nemotron-h-10m", "10.2 M parameters, bytes; an hour on a laptop", "M-M-M*-M-M-M*-M-",
          {.vocab_size = 256, .width = 320, .heads = 5, .kv_heads = 1, .mlp_width = 1024})
          ->model.mutable_mamba();
  small->set_head_size(40);
  small->set_groups(2);
  small->set_state_size(64);
  add("nemotron-h-8b", "8.08 B parameters; the NVFP4 paper's 8B, Nemotron-H's pattern",
      "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
      {.vocab_size = 131072,
       .width = 4096,
       .heads = 32,
       .kv_heads = 4,
       .mlp_width = 21504,
       .head_size = 128});
  add("nemotron-h-12b", "12.31 B parameters; the NVFP4 paper's 12B, Nemotron Nano 2's pattern",
      "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-",
      {.vocab_size = 131072,
       .width = 5120,
       .heads = 40,
       .kv_heads = 8,
       .mlp_width = 20480,
       .head_size = 128});
}

}  // namespace

const std::vector<ModelPreset>& ModelPresets() {
  static const auto* presets = [] {
    auto* made = new std::vector<ModelPreset>;
    AddLlamas(made);
    AddGpt2s(made);
    AddNemotrons(made);
    AddHybrids(made);
    return made;
  }();
  return *presets;
}

}  // namespace nibble::spec
