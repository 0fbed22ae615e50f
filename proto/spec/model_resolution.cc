#include "proto/spec/model_resolution.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/job_resolution.h"
#include "proto/spec/limits.h"
#include "proto/spec/model_size.h"

namespace nibble::spec {
namespace {

constexpr int32_t kDefaultVocabSize = 256;  // bytes
constexpr int32_t kDefaultMaxPositions = 1024;

class ModelResolver {
 public:
  ModelResolver(v1::ModelSpec* model, ErrorList* errors)
      : model_(*model), given_(*model), errors_(*errors) {}

  bool Run() {
    if (!ApplyPreset()) return false;
    if (model_.family().empty()) model_.set_family("llama");
    if (!CheckOneOf("model.family", model_.family(), {"llama", "gpt2", "nemotron", "nemotron_h"},
                    &errors_)) {
      return false;
    }
    if (!model_.has_vocab_size()) model_.set_vocab_size(kDefaultVocabSize);
    Check("vocab_size", model_.vocab_size(), {2, kMaxVocabSize});
    const bool width_good =
        CheckDimension("width", model_.has_width(), model_.width(), {1, kMaxWidth});
    ResolveBlocks();
    if (HasBlock('*')) ResolveHeads(width_good);
    if (HasBlock('-')) ResolveMlp(width_good);
    if (HasBlock('M')) ResolveMamba(width_good);
    ResolvePositions();
    const bool sizes_good = good_;
    ResolveValues();
    return sizes_good && CheckParameters();
  }

 private:
  bool gpt2() const { return model_.family() == "gpt2"; }
  bool hybrid() const { return model_.family() == "nemotron_h"; }
  bool rotary() const { return model_.family() == "llama" || model_.family() == "nemotron"; }
  // Whether some block has such a branch.
  bool HasBlock(char kind) const {
    return hybrid() ? model_.pattern().find(kind) != std::string::npos : kind != 'M';
  }

  void Check(const char* name, int64_t value, IntegerRange range) {
    good_ &= CheckInteger(absl::StrCat("model.", name), value, range, &errors_);
  }

  // `given`: by the job itself; what only its preset has is dropped.
  void Refuse(bool given, const char* name, absl::string_view who) {
    if (!given) return;
    good_ = false;
    errors_.Add(absl::StrCat("model.", name),
                absl::StrCat("is given; allowed: only with ", who, ", and this is family ",
                             model_.family()));
  }

  // A required dimension: given, or from the preset.
  bool CheckDimension(const char* name, bool given, int64_t value, IntegerRange range) {
    const std::string field = absl::StrCat("model.", name);
    bool good = given;
    if (given) {
      good = CheckInteger(field, value, range, &errors_);
    } else {
      errors_.Add(field, absl::StrCat("is missing; required: ", range.min, " to ", range.max,
                                      ", or a model.preset"));
    }
    good_ &= good;
    return good;
  }

  bool ApplyPreset() {
    if (model_.preset().empty()) return true;
    std::vector<std::string> names;
    for (const ModelPreset& preset : ModelPresets()) {
      names.push_back(preset.name);
      if (preset.name != model_.preset()) continue;
      if (!model_.family().empty() && model_.family() != preset.model.family()) {
        errors_.Add("model.family", absl::StrCat("is ", QuoteForError(model_.family()),
                                                 "; allowed: the family of preset ", preset.name,
                                                 ", which is ", preset.model.family()));
        return false;
      }
      v1::ModelSpec merged = preset.model;
      merged.MergeFrom(model_);  // what the job gives wins
      model_ = std::move(merged);
    }
    return CheckOneOf("model.preset", model_.preset(), names, &errors_);
  }

  void ResolveBlocks() {
    if (!hybrid()) {
      Refuse(!model_.pattern().empty(), "pattern", "nemotron_h");
      CheckDimension("blocks", model_.has_blocks(), model_.blocks(), {1, kMaxBlocks});
      return;
    }
    const std::string& pattern = model_.pattern();
    const int64_t length = static_cast<int64_t>(pattern.size());
    const bool good = length >= 1 && length <= kMaxBlocks &&
                      pattern.find_first_not_of("M*-") == std::string::npos;
    if (!good) {
      good_ = pattern_good_ = false;
      errors_.Add("model.pattern",
                  absl::StrCat(pattern.empty() ? "is missing" : "is ", QuoteForError(pattern),
                               "; required: 1 to ", kMaxBlocks,
                               " of M (Mamba-2), * (attention) and - (MLP), one a block"));
      return;
    }
    if (!model_.has_blocks()) model_.set_blocks(static_cast<int32_t>(length));
    if (model_.blocks() == length) return;
    good_ = false;
    errors_.Add("model.blocks",
                absl::StrCat("is ", model_.blocks(),
                             "; allowed: the length of model.pattern, which is ", length));
  }

  void ResolveHeads(bool width_good) {
    if (!CheckDimension("heads", model_.has_heads(), model_.heads(), {1, kMaxHeads})) return;
    if (!model_.has_kv_heads()) model_.set_kv_heads(model_.heads());
    if (!CheckInteger("model.kv_heads", model_.kv_heads(), {1, kMaxHeads}, &errors_)) {
      good_ = false;
    } else if (model_.heads() % model_.kv_heads() != 0) {
      good_ = false;
      errors_.Add("model.kv_heads",
                  absl::StrCat("is ", model_.kv_heads(),
                               "; allowed: divisors of model.heads, which is ", model_.heads()));
    }
    if (!model_.has_head_size()) {
      if (!width_good) return;
      if (model_.width() % model_.heads() != 0) {
        good_ = false;
        errors_.Add("model.heads", absl::StrCat("is ", model_.heads(),
                                                "; allowed: divisors of model.width, which is ",
                                                model_.width(), ", or set model.head_size"));
        return;
      }
      model_.set_head_size(model_.width() / model_.heads());
    }
    const int64_t least = rotary() ? 2 : 1;
    if (!CheckInteger("model.head_size", model_.head_size(), {least, kMaxHeadSize}, &errors_)) {
      good_ = false;
    } else if (rotary() && model_.head_size() % 2 != 0) {
      good_ = false;
      errors_.Add("model.head_size",
                  absl::StrCat("is ", model_.head_size(), "; allowed: even numbers from 2 to ",
                               kMaxHeadSize, " (rotary embeddings turn pairs)"));
    }
  }

  void ResolveMlp(bool width_good) {
    if (!model_.has_mlp_width() && width_good) {
      // SwiGLU's usual 8/3 of the width, in whole NVFP4 blocks; else the usual 4.
      const bool swiglu = model_.family() == "llama";
      model_.set_mlp_width(swiglu ? (model_.width() + 5) / 6 * 16 : 4 * model_.width());
    }
    if (model_.has_mlp_width()) Check("mlp_width", model_.mlp_width(), {1, kMaxMlpWidth});
    if (!gpt2()) return Refuse(!model_.activation().empty(), "activation", "gpt2");
    if (model_.activation().empty()) model_.set_activation("gelu_tanh");
    good_ &= CheckOneOf("model.activation", model_.activation(), {"gelu_tanh", "gelu"}, &errors_);
  }

  void ResolveMamba(bool width_good) {
    v1::MambaSpec& mamba = *model_.mutable_mamba();
    if (!mamba.has_expand()) mamba.set_expand(2);
    if (!mamba.has_head_size()) mamba.set_head_size(64);
    if (!mamba.has_groups()) mamba.set_groups(8);
    if (!mamba.has_state_size()) mamba.set_state_size(128);
    if (!mamba.has_conv_width()) mamba.set_conv_width(4);
    if (!mamba.has_chunk_size()) mamba.set_chunk_size(64);
    const bool before = std::exchange(good_, true);
    Check("mamba.expand", mamba.expand(), {1, kMaxMambaExpand});
    Check("mamba.head_size", mamba.head_size(), {1, kMaxHeadSize});
    Check("mamba.groups", mamba.groups(), {1, kMaxHeads});
    Check("mamba.state_size", mamba.state_size(), {1, kMaxMambaStateSize});
    Check("mamba.conv_width", mamba.conv_width(), {1, kMaxMambaConvWidth});
    Check("mamba.chunk_size", mamba.chunk_size(), {1, kMaxMambaChunkSize});
    if (good_ && width_good) CheckMambaHeads(mamba);
    good_ &= before;
  }

  void CheckMambaHeads(const v1::MambaSpec& mamba) {
    const int64_t inner = int64_t{mamba.expand()} * model_.width();
    if (inner % mamba.head_size() != 0) {
      good_ = false;
      errors_.Add("model.mamba.head_size",
                  absl::StrCat("is ", mamba.head_size(),
                               "; allowed: divisors of model.mamba.expand times model.width, which "
                               "is ",
                               inner));
    } else if (inner / mamba.head_size() % mamba.groups() != 0) {
      good_ = false;
      errors_.Add("model.mamba.groups",
                  absl::StrCat("is ", mamba.groups(), "; allowed: divisors of the ",
                               inner / mamba.head_size(), " Mamba-2 heads"));
    }
  }

  void ResolvePositions() {
    if (!gpt2()) {
      Refuse(model_.has_max_positions(), "max_positions", "gpt2");
    } else {
      if (!model_.has_max_positions()) model_.set_max_positions(kDefaultMaxPositions);
      Check("max_positions", model_.max_positions(), {1, kMaxPositions});
    }
    if (!rotary()) return Refuse(model_.has_rope_theta(), "rope_theta", "llama and nemotron");
    if (!model_.has_rope_theta()) model_.set_rope_theta(10000);
    CheckReal("model.rope_theta", model_.rope_theta(), {1, 1e9}, &errors_);
  }

  // What no size depends on, and fields of branches that the model has not.
  void ResolveValues() {
    if (pattern_good_ && !HasBlock('*')) {
      const char* who = "a * in model.pattern";
      Refuse(given_.has_heads(), "heads", who);
      Refuse(given_.has_kv_heads(), "kv_heads", who);
      Refuse(given_.has_head_size(), "head_size", who);
      model_.clear_heads();
      model_.clear_kv_heads();
      model_.clear_head_size();
    }
    if (pattern_good_ && !HasBlock('-')) {
      Refuse(given_.has_mlp_width(), "mlp_width", "a - in model.pattern");
      model_.clear_mlp_width();
    }
    if (pattern_good_ && !HasBlock('M')) {
      Refuse(given_.has_mamba(), "mamba", "nemotron_h and an M in model.pattern");
      model_.clear_mamba();
    }
    if (!model_.has_norm_epsilon()) model_.set_norm_epsilon(1e-5);
    CheckReal("model.norm_epsilon", model_.norm_epsilon(), {1e-12, 0.1}, &errors_);
    if (!model_.has_tied_embeddings()) model_.set_tied_embeddings(gpt2());
    if (!model_.has_init_std()) model_.set_init_std(0.02);
    CheckReal("model.init_std", model_.init_std(), {1e-6, 1}, &errors_);
  }

  bool CheckParameters() {
    if (CountParameters(model_).has_value()) return good_;
    errors_.Add("model",
                absl::StrCat("has too many parameters; allowed: at most ", kMaxParameters));
    return false;
  }

  v1::ModelSpec& model_;
  const v1::ModelSpec given_;  // before the preset
  ErrorList& errors_;
  bool good_ = true;
  bool pattern_good_ = true;
};

}  // namespace

bool ResolveModelSpec(v1::ModelSpec* model, ErrorList* errors) {
  return ModelResolver(model, errors).Run();
}

}  // namespace nibble::spec
