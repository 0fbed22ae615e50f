#include "worker/interchange/weight_layout.h"

#include "absl/strings/str_cat.h"

namespace nibble::interchange {
namespace {

// Adds pieces of one parameter after another.
class LayoutBuilder {
 public:
  // `parameter` is made of the pieces added from here on.
  void Into(std::string parameter, int64_t cols) {
    parameter_ = std::move(parameter);
    cols_ = cols;
    next_row_ = 0;
  }
  WeightPiece& Matrix(std::string foreign, int64_t rows) {
    WeightPiece& piece = Add(std::move(foreign), rows);
    piece.shape = {rows, cols_};
    return piece;
  }
  void Vector(const std::string& foreign, const std::string& parameter, int64_t size) {
    Into(parameter, 1);
    Add(foreign, size).shape = {size};
  }
  std::vector<WeightPiece> Take() { return std::move(pieces_); }

 private:
  WeightPiece& Add(std::string foreign, int64_t rows) {
    WeightPiece& piece = pieces_.emplace_back();
    piece.foreign = std::move(foreign);
    piece.parameter = parameter_;
    piece.first_row = next_row_;
    piece.rows = rows;
    piece.cols = cols_;
    next_row_ += rows;
    return piece;
  }

  std::vector<WeightPiece> pieces_;
  std::string parameter_;
  int64_t cols_ = 0;
  int64_t next_row_ = 0;
};

std::vector<WeightPiece> HuggingFaceLlama(const v1::ModelSpec& model) {
  const int64_t width = model.width(), head_size = model.head_size();
  const int64_t q_rows = model.heads() * head_size, kv_rows = model.kv_heads() * head_size;
  LayoutBuilder layout;
  layout.Into("model.embed_tokens.weight", width);
  layout.Matrix("model.embed_tokens.weight", model.vocab_size());
  for (int64_t i = 0; i < model.blocks(); ++i) {
    const std::string block = absl::StrCat("model.layers.", i, ".");
    const std::string attention = block + "self_attn.", mlp = block + "mlp.";
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"}) {
      layout.Vector(block + norm, block + norm, width);
    }
    layout.Into(attention + "qkv_proj.weight", width);
    layout.Matrix(attention + "q_proj.weight", q_rows);
    layout.Matrix(attention + "k_proj.weight", kv_rows);
    layout.Matrix(attention + "v_proj.weight", kv_rows);
    layout.Into(attention + "o_proj.weight", q_rows);
    layout.Matrix(attention + "o_proj.weight", width);
    layout.Into(mlp + "gate_up_proj.weight", width);
    layout.Matrix(mlp + "gate_proj.weight", model.mlp_width());
    layout.Matrix(mlp + "up_proj.weight", model.mlp_width());
    layout.Into(mlp + "down_proj.weight", model.mlp_width());
    layout.Matrix(mlp + "down_proj.weight", width);
  }
  layout.Vector("model.norm.weight", "model.norm.weight", width);
  if (!model.tied_embeddings()) {
    layout.Into("lm_head.weight", width);
    layout.Matrix("lm_head.weight", model.vocab_size());
  }
  return layout.Take();
}

// GPT-2's linear layers are Conv1D: [in, out]. Names here are the same.
std::vector<WeightPiece> HuggingFaceGpt2(const v1::ModelSpec& model) {
  const int64_t width = model.width();
  const int64_t qkv_rows = (model.heads() + 2 * model.kv_heads()) * model.head_size();
  LayoutBuilder layout;
  const auto vector = [&](const std::string& name, int64_t size) {
    layout.Vector(name, name, size);
  };
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) -> WeightPiece& {
    layout.Into(name, cols);
    return layout.Matrix(name, rows);
  };
  const auto linear = [&](const std::string& name, int64_t rows, int64_t cols) {
    WeightPiece& piece = matrix(name + ".weight", rows, cols);
    piece.shape = {cols, rows};
    piece.transposed = true;
    vector(name + ".bias", rows);
  };
  const auto norm = [&](const std::string& name) {
    vector(name + ".weight", width);
    vector(name + ".bias", width);
  };
  matrix("transformer.wte.weight", model.vocab_size(), width);
  matrix("transformer.wpe.weight", model.max_positions(), width);
  for (int64_t i = 0; i < model.blocks(); ++i) {
    const std::string block = absl::StrCat("transformer.h.", i, ".");
    norm(block + "ln_1");
    linear(block + "attn.c_attn", qkv_rows, width);
    linear(block + "attn.c_proj", width, model.heads() * model.head_size());
    norm(block + "ln_2");
    linear(block + "mlp.c_fc", model.mlp_width(), width);
    linear(block + "mlp.c_proj", width, model.mlp_width());
  }
  norm("transformer.ln_f");
  if (!model.tied_embeddings()) matrix("lm_head.weight", model.vocab_size(), width);
  return layout.Take();
}

}  // namespace

int64_t ForeignRow(const WeightPiece& piece, int64_t row) {
  const int64_t size = piece.interleaved_head_size;
  if (size == 0) return row;
  const int64_t within = row % size, half = size / 2;
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
}

absl::StatusOr<std::vector<WeightPiece>> HuggingFaceLayout(const v1::ModelSpec& model) {
  if (model.family() == "llama") return HuggingFaceLlama(model);
  const bool square =
      model.kv_heads() == model.heads() && model.heads() * model.head_size() == model.width();
  if (model.family() == "gpt2" && square) return HuggingFaceGpt2(model);
  if (model.family() == "gpt2") {
    return absl::UnimplementedError(
        "transformers' gpt2 has as many key heads as heads, which share the width");
  }
  return absl::UnimplementedError(
      absl::StrCat("models of the family ", model.family(),
                   " have no equal in transformers; llama and gpt2 have"));
}

std::vector<WeightPiece> Llama2cLayout(const v1::ModelSpec& model) {
  const int64_t width = model.width(), head_size = model.head_size();
  const int64_t q_rows = model.heads() * head_size, kv_rows = model.kv_heads() * head_size;
  LayoutBuilder layout;
  layout.Into("model.embed_tokens.weight", width);
  layout.Matrix("token_embedding_table", model.vocab_size());
  for (int64_t i = 0; i < model.blocks(); ++i) {
    const std::string block = absl::StrCat("model.layers.", i, ".");
    const auto name = [i](const char* tensor) { return absl::StrCat(tensor, ".", i); };
    layout.Vector(name("rms_att_weight"), block + "input_layernorm.weight", width);
    layout.Vector(name("rms_ffn_weight"), block + "post_attention_layernorm.weight", width);
    layout.Into(block + "self_attn.qkv_proj.weight", width);
    layout.Matrix(name("wq"), q_rows).interleaved_head_size = head_size;
    layout.Matrix(name("wk"), kv_rows).interleaved_head_size = head_size;
    layout.Matrix(name("wv"), kv_rows);
    layout.Into(block + "self_attn.o_proj.weight", q_rows);
    layout.Matrix(name("wo"), width);
    layout.Into(block + "mlp.gate_up_proj.weight", width);
    layout.Matrix(name("w1"), model.mlp_width());
    layout.Matrix(name("w3"), model.mlp_width());
    layout.Into(block + "mlp.down_proj.weight", model.mlp_width());
    layout.Matrix(name("w2"), width);
  }
  layout.Vector("rms_final_weight", "model.norm.weight", width);
  if (!model.tied_embeddings()) {
    layout.Into("lm_head.weight", width);
    layout.Matrix("wcls", model.vocab_size());
  }
  return layout.Take();
}

}  // namespace nibble::interchange
