#include "tests/training/plain_model.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace nibble::testing {
namespace {

using Vector = std::vector<double>;

// w [out, in] times x [in].
Vector Times(const Vector& w, const Vector& x) {
  NIBBLE_CHECK(w.size() % x.size() == 0);
  Vector y(w.size() / x.size(), 0.0);
  for (size_t o = 0; o < y.size(); ++o) {
    for (size_t i = 0; i < x.size(); ++i) y[o] += w[o * x.size() + i] * x[i];
  }
  return y;
}

// RMS norm, or layer norm where there is a bias.
Vector Norm(const PlainWeights& weights, const std::string& name, const Vector& x, double epsilon) {
  const Vector& weight = weights.at(name + ".weight");
  const auto bias = weights.find(name + ".bias");
  double mean = 0, squares = 0;
  if (bias != weights.end()) {
    for (double value : x) mean += value / static_cast<double>(x.size());
  }
  for (double value : x) squares += (value - mean) * (value - mean);
  const double deviation = std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = (x[i] - mean) / deviation * weight[i];
    if (bias != weights.end()) y[i] += bias->second[i];
  }
  return y;
}

// A linear layer, with a bias where it has one.
Vector Linear(const PlainWeights& weights, const std::string& name, const Vector& x) {
  Vector y = Times(weights.at(name + ".weight"), x);
  const auto bias = weights.find(name + ".bias");
  for (size_t i = 0; bias != weights.end() && i < y.size(); ++i) y[i] += bias->second[i];
  return y;
}

double Silu(double x) { return x / (1 + std::exp(-x)); }

// Rotates the pairs (i, i + size/2) of the head that starts at `head`.
void Rotate(Vector* x, int64_t head, int64_t size, int64_t position, double theta) {
  for (int64_t i = 0; i < size / 2; ++i) {
    const double angle =
        static_cast<double>(position) / std::pow(theta, 2.0 * static_cast<double>(i) / size);
    double& a = (*x)[head + i];
    double& b = (*x)[head + i + size / 2];
    const double rotated = a * std::cos(angle) - b * std::sin(angle);
    b = b * std::cos(angle) + a * std::sin(angle);
    a = rotated;
  }
}

// Causal attention of one sequence; qkv[t] = q of all heads, k of all, v of all.
std::vector<Vector> Attend(const model::ModelConfig& config, const std::vector<Vector>& qkv) {
  const int64_t size = config.head_size;
  const int64_t k_start = config.heads * size, v_start = k_start + config.kv_heads * size;
  std::vector<Vector> out(qkv.size(), Vector(config.heads * size, 0.0));
  for (int64_t head = 0; head < config.heads; ++head) {
    const int64_t kv_head = head / (config.heads / config.kv_heads);
    for (size_t t = 0; t < qkv.size(); ++t) {
      Vector weight(t + 1);
      double sum = 0;
      for (size_t s = 0; s <= t; ++s) {
        double dot = 0;
        for (int64_t i = 0; i < size; ++i) {
          dot += qkv[t][head * size + i] * qkv[s][k_start + kv_head * size + i];
        }
        weight[s] = std::exp(dot / std::sqrt(static_cast<double>(size)));
        sum += weight[s];
      }
      for (size_t s = 0; s <= t; ++s) {
        for (int64_t i = 0; i < size; ++i) {
          out[t][head * size + i] += weight[s] / sum * qkv[s][v_start + kv_head * size + i];
        }
      }
    }
  }
  return out;
}

void AddTo(Vector* x, const Vector& y) {
  for (size_t i = 0; i < x->size(); ++i) (*x)[i] += y[i];
}

using Rows = std::vector<Vector>;

// What a branch adds, from normed rows; `layer` is the prefix of its weights' names.
Rows Attention(const model::ModelConfig& config, const PlainWeights& weights, const std::string& in,
               const std::string& out, const Rows& x) {
  const bool rotary =
      config.family == model::Family::kLlama || config.family == model::Family::kNemotron;
  Rows qkv;
  for (size_t t = 0; t < x.size(); ++t) {
    qkv.push_back(Linear(weights, in, x[t]));
    for (int64_t head = 0; rotary && head < config.heads + config.kv_heads; ++head) {  // q, then k
      Rotate(&qkv[t], head * config.head_size, config.head_size, static_cast<int64_t>(t),
             config.rope_theta);
    }
  }
  Rows y;
  for (const Vector& row : Attend(config, qkv)) y.push_back(Linear(weights, out, row));
  return y;
}

double Activate(model::MlpActivation activation, double x) {
  switch (activation) {
    case model::MlpActivation::kSquaredRelu:
      return x > 0 ? x * x : 0;
    case model::MlpActivation::kGelu:
      return x * std::erfc(-x / std::sqrt(2.0)) / 2;
    default:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
}

Rows Mlp(const model::ModelConfig& config, const PlainWeights& weights, const std::string& in,
         const std::string& out, const Rows& x) {
  Rows y;
  for (const Vector& row : x) {
    const Vector up = Linear(weights, in, row);
    Vector activated(config.mlp_width);
    for (int64_t i = 0; i < config.mlp_width; ++i) {
      activated[i] = config.activation == model::MlpActivation::kSwiGlu
                         ? Silu(up[i]) * up[config.mlp_width + i]
                         : Activate(config.activation, up[i]);
    }
    y.push_back(Linear(weights, out, activated));
  }
  return y;
}

// Mamba-2 as a recurrence.
Rows Mamba(const model::ModelConfig& config, const PlainWeights& weights, const std::string& layer,
           const Rows& x) {
  const int64_t heads = config.mamba.heads, size = config.mamba.head_size, inner = heads * size;
  const int64_t state = config.mamba.state_size, groups = config.mamba.groups;
  const int64_t width = config.mamba.conv_width, channels = inner + 2 * groups * state;
  const Vector &kernel = weights.at(layer + "conv1d.weight"),
               &bias = weights.at(layer + "conv1d.bias"),
               &scale = weights.at(layer + "norm.weight");
  Rows projected, y;
  Rows h(heads, Vector(size * state, 0.0));
  for (size_t t = 0; t < x.size(); ++t) {
    projected.push_back(Linear(weights, layer + "in_proj", x[t]));
    Vector xbc(channels), gated(inner);
    for (int64_t c = 0; c < channels; ++c) {
      double pre = bias[c];
      for (int64_t k = 0; k < width && k <= static_cast<int64_t>(t); ++k) {
        pre += kernel[c * width + width - 1 - k] * projected[t - k][inner + c];
      }
      xbc[c] = Silu(pre);
    }
    for (int64_t head = 0; head < heads; ++head) {
      const double* b = &xbc[inner + head / (heads / groups) * state];
      const double* c = b + groups * state;
      const double dt = std::log1p(
          std::exp(projected[t][inner + channels + head] + weights.at(layer + "dt_bias")[head]));
      const double decay = std::exp(-std::exp(weights.at(layer + "A_log")[head]) * dt);
      for (int64_t i = 0; i < size; ++i) {
        const double value = xbc[head * size + i];
        double out = weights.at(layer + "D")[head] * value;
        for (int64_t j = 0; j < state; ++j) {
          double& cell = h[head][i * state + j];
          cell = decay * cell + dt * value * b[j];
          out += cell * c[j];
        }
        gated[head * size + i] = out * Silu(projected[t][head * size + i]);
      }
    }
    const int64_t group = inner / groups;
    for (int64_t first = 0; first < inner; first += group) {
      double squares = 0;
      for (int64_t i = first; i < first + group; ++i) squares += gated[i] * gated[i];
      const double rms = std::sqrt(squares / static_cast<double>(group) + config.norm_epsilon);
      for (int64_t i = first; i < first + group; ++i) gated[i] *= scale[i] / rms;
    }
    y.push_back(Linear(weights, layer + "out_proj", gated));
  }
  return y;
}

template <class Mixer>
void Branch(const model::ModelConfig& config, const PlainWeights& weights, const std::string& norm,
            const Mixer& mixer, Rows* h) {
  Rows normed;
  for (const Vector& row : *h) normed.push_back(Norm(weights, norm, row, config.norm_epsilon));
  const Rows added = mixer(normed);
  for (size_t t = 0; t < h->size(); ++t) AddTo(&(*h)[t], added[t]);
}

void Block(const model::ModelConfig& config, const PlainWeights& weights, int64_t index, Rows* h) {
  const auto attention = [&](const std::string& norm, const std::string& in,
                             const std::string& out) {
    Branch(
        config, weights, norm,
        [&](const Rows& x) { return Attention(config, weights, in, out, x); }, h);
  };
  const auto mlp = [&](const std::string& norm, const std::string& in, const std::string& out) {
    Branch(
        config, weights, norm, [&](const Rows& x) { return Mlp(config, weights, in, out, x); }, h);
  };
  if (config.family == model::Family::kGpt2) {
    const std::string block = "transformer.h." + std::to_string(index) + ".";
    attention(block + "ln_1", block + "attn.c_attn", block + "attn.c_proj");
    mlp(block + "ln_2", block + "mlp.c_fc", block + "mlp.c_proj");
  } else if (config.family == model::Family::kNemotronH) {
    const std::string block = "backbone.layers." + std::to_string(index) + ".";
    const std::string mixer = block + "mixer.";
    if (config.pattern[index] == '*') {
      attention(block + "norm", mixer + "qkv_proj", mixer + "o_proj");
    } else if (config.pattern[index] == '-') {
      mlp(block + "norm", mixer + "up_proj", mixer + "down_proj");
    } else {
      Branch(
          config, weights, block + "norm",
          [&](const Rows& x) { return Mamba(config, weights, mixer, x); }, h);
    }
  } else {
    const std::string block = "model.layers." + std::to_string(index) + ".";
    attention(block + "input_layernorm", block + "self_attn.qkv_proj", block + "self_attn.o_proj");
    mlp(block + "post_attention_layernorm",
        block + (config.family == model::Family::kLlama ? "mlp.gate_up_proj" : "mlp.up_proj"),
        block + "mlp.down_proj");
  }
}

struct OuterNames {
  std::string embedding, final_norm;
};

OuterNames NamesOf(model::Family family) {
  if (family == model::Family::kGpt2) return {"transformer.wte.weight", "transformer.ln_f"};
  if (family == model::Family::kNemotronH) {
    return {"backbone.embeddings.weight", "backbone.norm_f"};
  }
  return {"model.embed_tokens.weight", "model.norm"};
}

double SumOfLosses(const model::ModelConfig& config, const PlainWeights& weights,
                   const std::vector<int32_t>& inputs, const std::vector<int32_t>& targets) {
  const OuterNames names = NamesOf(config.family);
  const Vector& embedding = weights.at(names.embedding);
  const Vector& head = config.tied_embeddings ? embedding : weights.at("lm_head.weight");
  Rows h;
  for (int32_t token : inputs) {
    h.emplace_back(embedding.begin() + token * config.width,
                   embedding.begin() + (token + 1) * config.width);
    if (config.family != model::Family::kGpt2) continue;
    const Vector& positions = weights.at("transformer.wpe.weight");
    for (int64_t i = 0; i < config.width; ++i) {
      h.back()[i] += positions[(static_cast<int64_t>(h.size()) - 1) * config.width + i];
    }
  }
  for (int64_t i = 0; i < config.blocks; ++i) Block(config, weights, i, &h);
  double sum = 0;
  for (size_t t = 0; t < h.size(); ++t) {
    const Vector logits = Times(head, Norm(weights, names.final_norm, h[t], config.norm_epsilon));
    double total = 0;
    for (double logit : logits) total += std::exp(logit);
    sum += std::log(total) - logits[targets[t]];
  }
  return sum;
}

}  // namespace

double PlainLoss(const model::ModelConfig& config, const PlainWeights& weights,
                 const std::vector<std::vector<int32_t>>& inputs,
                 const std::vector<std::vector<int32_t>>& targets) {
  double sum = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    sum += SumOfLosses(config, weights, inputs[i], targets[i]);
  }
  return sum / static_cast<double>(inputs.size() * inputs[0].size());
}

PlainWeights PlainGradient(const model::ModelConfig& config, const PlainWeights& weights,
                           const std::vector<std::vector<int32_t>>& inputs,
                           const std::vector<std::vector<int32_t>>& targets) {
  constexpr double kStep = 1e-5;
  PlainWeights moved = weights;
  PlainWeights gradient;
  for (auto& [name, values] : moved) {
    for (double& value : values) {
      const double original = value;
      value = original + kStep;
      const double above = PlainLoss(config, moved, inputs, targets);
      value = original - kStep;
      const double below = PlainLoss(config, moved, inputs, targets);
      value = original;
      gradient[name].push_back((above - below) / (2 * kStep));
    }
  }
  return gradient;
}

bool PlainDecays(const std::string& name) {
  for (const char* part : {"norm", "ln_", "bias", "A_log", "mixer.D"}) {
    if (name.find(part) != std::string::npos) return false;
  }
  return true;
}

double PlainAdamW::Update(double learning_rate, const PlainWeights& gradient,
                          PlainWeights* weights) {
  ++t;
  double squares = 0;
  for (const auto& [name, values] : gradient) {
    for (double value : values) squares += value * value;
  }
  const double norm = std::sqrt(squares);
  const double scale = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
  for (auto& [name, values] : *weights) {
    const double decay = PlainDecays(name) ? weight_decay : 0.0;
    m[name].resize(values.size());
    v[name].resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const double g = gradient.at(name)[i] * scale;
      m[name][i] = beta1 * m[name][i] + (1 - beta1) * g;
      v[name][i] = beta2 * v[name][i] + (1 - beta2) * g * g;
      const double m_hat = m[name][i] / (1 - std::pow(beta1, t));
      const double v_hat = v[name][i] / (1 - std::pow(beta2, t));
      values[i] -= learning_rate * (m_hat / (std::sqrt(v_hat) + epsilon) + decay * values[i]);
    }
  }
  return norm;
}

}  // namespace nibble::testing
