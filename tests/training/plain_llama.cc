#include "tests/training/plain_llama.h"

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

Vector Norm(const Vector& x, const Vector& weight, double epsilon) {
  double squares = 0;
  for (double value : x) squares += value * value;
  const double rms = std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / rms * weight[i];
  return y;
}

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

void Block(const model::ModelConfig& config, const PlainWeights& weights, const std::string& layer,
           std::vector<Vector>* h) {
  std::vector<Vector> qkv;
  for (size_t t = 0; t < h->size(); ++t) {
    qkv.push_back(
        Times(weights.at(layer + "self_attn.qkv_proj.weight"),
              Norm((*h)[t], weights.at(layer + "input_layernorm.weight"), config.norm_epsilon)));
    for (int64_t head = 0; head < config.heads + config.kv_heads; ++head) {  // q, then k
      Rotate(&qkv[t], head * config.head_size, config.head_size, static_cast<int64_t>(t),
             config.rope_theta);
    }
  }
  const std::vector<Vector> attended = Attend(config, qkv);
  for (size_t t = 0; t < h->size(); ++t) {
    AddTo(&(*h)[t], Times(weights.at(layer + "self_attn.o_proj.weight"), attended[t]));
    const Vector gate_up = Times(
        weights.at(layer + "mlp.gate_up_proj.weight"),
        Norm((*h)[t], weights.at(layer + "post_attention_layernorm.weight"), config.norm_epsilon));
    Vector activated(config.mlp_width);
    for (int64_t i = 0; i < config.mlp_width; ++i) {
      const double gate = gate_up[i];
      activated[i] = gate / (1 + std::exp(-gate)) * gate_up[config.mlp_width + i];
    }
    AddTo(&(*h)[t], Times(weights.at(layer + "mlp.down_proj.weight"), activated));
  }
}

double SumOfLosses(const model::ModelConfig& config, const PlainWeights& weights,
                   const std::vector<int32_t>& inputs, const std::vector<int32_t>& targets) {
  const Vector& embedding = weights.at("model.embed_tokens.weight");
  const Vector& head = config.tied_embeddings ? embedding : weights.at("lm_head.weight");
  std::vector<Vector> h;
  for (int32_t token : inputs) {
    h.emplace_back(embedding.begin() + token * config.width,
                   embedding.begin() + (token + 1) * config.width);
  }
  for (int64_t i = 0; i < config.blocks; ++i) {
    Block(config, weights, "model.layers." + std::to_string(i) + ".", &h);
  }
  double sum = 0;
  for (size_t t = 0; t < h.size(); ++t) {
    const Vector logits =
        Times(head, Norm(h[t], weights.at("model.norm.weight"), config.norm_epsilon));
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
    const double decay = name.find("norm") == std::string::npos ? weight_decay : 0.0;
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
