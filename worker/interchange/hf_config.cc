#include "worker/interchange/hf_config.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace nibble::interchange {
namespace {

using Json = nlohmann::ordered_json;

// Takes settings from the document; the first wrong one is the status.
class ConfigReader {
 public:
  explicit ConfigReader(const Json& json) : json_(json) {}

  const absl::Status& status() const { return status_; }

  int32_t Integer(const char* name) {
    const auto field = json_.find(name);
    if (field == json_.end() || !field->is_number_integer()) {
      return Fail(absl::InvalidArgumentError(absl::StrCat(name, " must be a whole number"))), 0;
    }
    // Unsigned numbers beyond 2^63 wrap to negative ones, which resolution refuses.
    const int64_t value = field->get<int64_t>();
    if (value < 0 || value > std::numeric_limits<int32_t>::max()) {
      return Fail(absl::InvalidArgumentError(absl::StrCat(name, " is ", value))), 0;
    }
    return static_cast<int32_t>(value);
  }
  int32_t IntegerOr(const char* name, int32_t absent) { return Has(name) ? Integer(name) : absent; }

  double RealOr(const char* name, double absent) {
    if (!Has(name)) return absent;
    const Json& field = json_[name];
    if (field.is_number() && std::isfinite(field.get<double>())) return field.get<double>();
    return Fail(absl::InvalidArgumentError(absl::StrCat(name, " must be a finite number"))), 0;
  }
  bool FlagOr(const char* name, bool absent) {
    if (!Has(name)) return absent;
    if (json_[name].is_boolean()) return json_[name].get<bool>();
    return Fail(absl::InvalidArgumentError(absl::StrCat(name, " must be true or false"))), absent;
  }
  std::string TextOr(const char* name, const char* absent) {
    if (!Has(name)) return absent;
    if (json_[name].is_string()) return json_[name].get<std::string>();
    return Fail(absl::InvalidArgumentError(absl::StrCat(name, " must be a string"))), absent;
  }
  // The setting may be absent (then it is `required`), and else must be this.
  template <class T>
  void Require(const char* name, const T& required) {
    if (Has(name) && json_[name] != Json(required)) {
      Fail(absl::UnimplementedError(
          absl::StrCat(name, " is ", EscapeControlCharacters(json_[name].dump().substr(0, 80)),
                       "; models here have ", Json(required).dump())));
    }
  }
  bool Has(const char* name) const { return json_.contains(name) && !json_[name].is_null(); }
  const Json& operator[](const char* name) const { return json_[name]; }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

 private:
  const Json& json_;
  absl::Status status_;
};

// rope_theta lies in rope_parameters since transformers 5, beside the kind of scaling.
void ReadRope(ConfigReader& config, v1::ModelSpec* model) {
  model->set_rope_theta(config.RealOr("rope_theta", 10000));
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!config.Has(name)) continue;
    if (!config[name].is_object()) {
      return config.Fail(absl::InvalidArgumentError(absl::StrCat(name, " must be an object")));
    }
    ConfigReader rope(config[name]);
    for (const char* kind : {"rope_type", "type"}) rope.Require(kind, "default");
    if (rope.Has("rope_theta")) model->set_rope_theta(rope.RealOr("rope_theta", 10000));
    rope.Require("partial_rotary_factor", 1.0);
    if (!rope.status().ok()) {
      config.Fail(
          absl::Status(rope.status().code(), absl::StrCat(name, ".", rope.status().message())));
    }
  }
}

void ReadLlama(ConfigReader& config, v1::ModelSpec* model) {
  model->set_family("llama");
  model->set_width(config.Integer("hidden_size"));
  model->set_mlp_width(config.Integer("intermediate_size"));
  model->set_blocks(config.Integer("num_hidden_layers"));
  model->set_heads(config.Integer("num_attention_heads"));
  model->set_kv_heads(config.IntegerOr("num_key_value_heads", model->heads()));
  if (config.Has("head_dim")) model->set_head_size(config.Integer("head_dim"));
  model->set_norm_epsilon(config.RealOr("rms_norm_eps", 1e-6));
  model->set_tied_embeddings(config.FlagOr("tie_word_embeddings", false));
  config.Require("hidden_act", "silu");
  config.Require("attention_bias", false);
  config.Require("mlp_bias", false);
  ReadRope(config, model);
}

void ReadGpt2(ConfigReader& config, v1::ModelSpec* model) {
  model->set_family("gpt2");
  model->set_width(config.Integer("n_embd"));
  model->set_blocks(config.Integer("n_layer"));
  model->set_heads(config.Integer("n_head"));
  model->set_max_positions(config.IntegerOr("n_positions", 1024));
  if (config.Has("n_inner")) {
    model->set_mlp_width(config.Integer("n_inner"));
  } else if (model->width() <= std::numeric_limits<int32_t>::max() / 4) {
    model->set_mlp_width(4 * model->width());
  }
  model->set_norm_epsilon(config.RealOr("layer_norm_epsilon", 1e-5));
  model->set_tied_embeddings(config.FlagOr("tie_word_embeddings", true));
  const std::string activation = config.TextOr("activation_function", "gelu_new");
  if (activation == "gelu") {
    model->set_activation("gelu");
  } else {
    config.Require("activation_function", "gelu_new");
    model->set_activation("gelu_tanh");
  }
  config.Require("scale_attn_weights", true);
  config.Require("scale_attn_by_inverse_layer_idx", false);
  config.Require("add_cross_attention", false);
}

Json Gpt2ConfigJson(const worker::ModelDescription& description) {
  const v1::ModelSpec& model = description.model;
  Json json;
  json["architectures"] = {"GPT2LMHeadModel"};
  json["model_type"] = "gpt2";
  json["n_embd"] = model.width();
  json["n_layer"] = model.blocks();
  json["n_head"] = model.heads();
  json["n_inner"] = model.mlp_width();
  json["n_positions"] = model.max_positions();
  json["activation_function"] = model.activation() == "gelu" ? "gelu" : "gelu_new";
  json["layer_norm_epsilon"] = model.norm_epsilon();
  json["initializer_range"] = model.init_std();
  for (const char* dropout : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) json[dropout] = 0.0;
  return json;
}

Json LlamaConfigJson(const worker::ModelDescription& description) {
  const v1::ModelSpec& model = description.model;
  Json json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["hidden_size"] = model.width();
  json["intermediate_size"] = model.mlp_width();
  json["num_hidden_layers"] = model.blocks();
  json["num_attention_heads"] = model.heads();
  json["num_key_value_heads"] = model.kv_heads();
  json["head_dim"] = model.head_size();
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = model.norm_epsilon();
  json["rope_theta"] = model.rope_theta();
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["attention_dropout"] = 0.0;
  json["max_position_embeddings"] = description.context_length;
  json["initializer_range"] = model.init_std();
  return json;
}

}  // namespace

absl::StatusOr<worker::ModelDescription> ParseHuggingFaceConfig(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  ConfigReader config(json);
  v1::ModelSpec model;
  const std::string type = config.TextOr("model_type", "");
  model.set_vocab_size(config.Integer("vocab_size"));
  int64_t context_length = 0;
  if (type == "llama") {
    ReadLlama(config, &model);
    context_length = config.IntegerOr("max_position_embeddings", 2048);
  } else if (type == "gpt2") {
    ReadGpt2(config, &model);
    context_length = model.max_positions();
  } else {
    config.Fail(absl::UnimplementedError(absl::StrCat("model_type is \"",
                                                      EscapeControlCharacters(type.substr(0, 80)),
                                                      "\"; llama and gpt2 can be read")));
  }
  NIBBLE_RETURN_IF_ERROR(config.status());
  return worker::ResolveModel(model, context_length);
}

absl::StatusOr<std::string> HuggingFaceConfig(const worker::ModelDescription& description,
                                              absl::string_view dtype, const TokenIds& ids) {
  const std::string& family = description.model.family();
  if (family != "llama" && family != "gpt2") {
    return absl::UnimplementedError(absl::StrCat(
        "models of the family ", family, " have no equal in transformers; llama and gpt2 have"));
  }
  Json json = family == "gpt2" ? Gpt2ConfigJson(description) : LlamaConfigJson(description);
  json["vocab_size"] = description.model.vocab_size();
  json["tie_word_embeddings"] = description.model.tied_embeddings();
  json["torch_dtype"] = std::string(dtype);
  json["use_cache"] = true;
  json["bos_token_id"] = ids.bos < 0 ? Json() : Json(ids.bos);
  json["eos_token_id"] = ids.eos < 0 ? Json() : Json(ids.eos);
  return json.dump(2) + "\n";
}

}  // namespace nibble::interchange
