// The model files of https://github.com/karpathy/llama2.c (export.py, run.c).
//
// Version 0: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len as int32, the
// vocabulary negative where the output head is a matrix of its own; then FP32 tensors, each kind
// for all layers together, with two tables of seq_len * head_size / 2 before the head.
// Version 1: "ak42" read as a big-endian number, version, the same seven (all positive), one byte
// for a shared head, zeros up to byte 256; then the norms first, and no tables.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/interchange/foreign_model.h"

namespace nibble::interchange {
namespace {

constexpr uint32_t kMagic = 0x616b3432;
constexpr int64_t kVersion1HeaderBytes = 256;

struct Header {
  int32_t dim, hidden_dim, layers, heads, kv_heads, vocab_size, sequence_length;
};
static_assert(sizeof(Header) == 28);

struct OpenedFile {
  Header header;
  bool version_1 = false;
  bool shared_head = false;
  int64_t data_start = 0;
};

absl::StatusOr<OpenedFile> ReadHeader(absl::string_view bytes) {
  OpenedFile file;
  if (bytes.size() < sizeof(Header)) {
    return absl::InvalidArgumentError("shorter than a llama2.c header");
  }
  uint32_t magic = 0;
  std::memcpy(&magic, bytes.data(), 4);
  if (magic != kMagic) {
    std::memcpy(&file.header, bytes.data(), sizeof(Header));
    file.shared_head = file.header.vocab_size > 0;
    // INT32_MIN has no positive counterpart; it is refused as a vocabulary of 0.
    file.header.vocab_size =
        file.header.vocab_size == INT32_MIN ? 0 : std::abs(file.header.vocab_size);
    file.data_start = sizeof(Header);
    return file;
  }
  if (bytes.size() < kVersion1HeaderBytes) {
    return absl::InvalidArgumentError("shorter than a llama2.c header of version 1");
  }
  int32_t version = 0;
  std::memcpy(&version, bytes.data() + 4, 4);
  if (version == 2) {
    return absl::UnimplementedError(
        "a llama2.c file of version 2, whose weights are rounded to 8 bits; versions 0 and 1 can "
        "be read");
  }
  if (version != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("llama2.c version ", version, "; versions 0 and 1 can be read"));
  }
  std::memcpy(&file.header, bytes.data() + 8, sizeof(Header));
  const char shared = bytes[8 + sizeof(Header)];
  if (shared != 0 && shared != 1) {
    return absl::InvalidArgumentError("the flag of a shared head is neither 0 nor 1");
  }
  file.shared_head = shared == 1;
  file.version_1 = true;
  file.data_start = kVersion1HeaderBytes;
  return file;
}

v1::ModelSpec SpecOf(const OpenedFile& file) {
  v1::ModelSpec model;
  model.set_family("llama");
  model.set_vocab_size(file.header.vocab_size);
  model.set_width(file.header.dim);
  model.set_blocks(file.header.layers);
  model.set_heads(file.header.heads);
  model.set_kv_heads(file.header.kv_heads);
  model.set_mlp_width(file.header.hidden_dim);
  model.set_rope_theta(10000);
  model.set_norm_epsilon(1e-5);
  model.set_tied_embeddings(file.shared_head);
  return model;
}

// Kinds of tensors in file order; a dot: one for every layer.
std::vector<absl::string_view> FileOrder(const OpenedFile& file) {
  std::vector<absl::string_view> order =
      file.version_1 ? std::vector<absl::string_view>{"rms_att_weight.",
                                                      "rms_ffn_weight.",
                                                      "rms_final_weight",
                                                      "token_embedding_table",
                                                      "wq.",
                                                      "wk.",
                                                      "wv.",
                                                      "wo.",
                                                      "w1.",
                                                      "w2.",
                                                      "w3."}
                     : std::vector<absl::string_view>{"token_embedding_table",
                                                      "rms_att_weight.",
                                                      "wq.",
                                                      "wk.",
                                                      "wv.",
                                                      "wo.",
                                                      "rms_ffn_weight.",
                                                      "w1.",
                                                      "w2.",
                                                      "w3.",
                                                      "rms_final_weight",
                                                      "freq_cis"};
  if (!file.shared_head) order.push_back("wcls");
  return order;
}

// Takes the tensors one after the other.
class TensorCutter {
 public:
  TensorCutter(absl::string_view bytes, int64_t start) : bytes_(bytes), position_(start) {}

  absl::Status Skip(int64_t values) { return Cut(values).status(); }
  absl::StatusOr<absl::string_view> Cut(int64_t values) {
    const int64_t left = static_cast<int64_t>(bytes_.size()) - position_;
    if (values > left / 4) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the file ends too early: its header asks for more than its ", bytes_.size(), " bytes"));
    }
    const absl::string_view cut = bytes_.substr(position_, values * 4);
    position_ += values * 4;
    return cut;
  }
  absl::Status ExpectEnd() const {
    if (position_ == static_cast<int64_t>(bytes_.size())) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the file has ", bytes_.size(), " bytes; its header asks for ", position_));
  }

 private:
  const absl::string_view bytes_;
  int64_t position_;
};

absl::Status CutTensors(const OpenedFile& file, absl::string_view bytes, ForeignModel* model) {
  std::map<std::string, const WeightPiece*> pieces;
  for (const WeightPiece& piece : model->layout) pieces[piece.foreign] = &piece;
  const v1::ModelSpec& spec = model->description.model;
  TensorCutter cutter(bytes, file.data_start);
  for (const absl::string_view kind : FileOrder(file)) {
    if (kind == "freq_cis") {
      NIBBLE_RETURN_IF_ERROR(
          cutter.Skip(int64_t{file.header.sequence_length} * spec.head_size() / 2 * 2));
      continue;
    }
    const bool per_layer = kind.back() == '.';
    for (int64_t i = 0; i < (per_layer ? spec.blocks() : 1); ++i) {
      const std::string name = per_layer ? absl::StrCat(kind, i) : std::string(kind);
      const WeightPiece& piece = *pieces.at(name);
      ForeignTensor& tensor = model->tensors[name];
      tensor.shape = piece.shape;
      NIBBLE_ASSIGN_OR_RETURN(tensor.bytes, cutter.Cut(piece.rows * piece.cols));
    }
  }
  return cutter.ExpectEnd();
}

absl::StatusOr<ForeignModel> Open(MappedFile mapped) {
  const absl::string_view bytes = mapped.contents();
  NIBBLE_ASSIGN_OR_RETURN(const OpenedFile file, ReadHeader(bytes));
  const Header& header = file.header;
  if (header.heads < 1 || header.dim % header.heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a header with a width of ", header.dim, " and ",
                                                   header.heads, " heads: not a llama2.c file"));
  }
  ForeignModel model;
  absl::StatusOr<worker::ModelDescription> description =
      worker::ResolveModel(SpecOf(file), header.sequence_length);
  if (!description.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a llama2.c file, or one of a model that no job may have: ",
                     description.status().message()));
  }
  model.description = *std::move(description);
  model.layout = Llama2cLayout(model.description.model);
  NIBBLE_RETURN_IF_ERROR(CutTensors(file, bytes, &model));
  model.files.push_back(std::move(mapped));
  return model;
}

}  // namespace

absl::StatusOr<ForeignModel> OpenLlama2c(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  absl::StatusOr<ForeignModel> model = Open(std::move(mapped));
  if (!model.ok()) {
    return absl::Status(model.status().code(), absl::StrCat(path, ": ", model.status().message()));
  }
  return model;
}

}  // namespace nibble::interchange
