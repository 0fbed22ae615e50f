#include "worker/data/tokenizer.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace nibble::data {
namespace {

constexpr int32_t kByteVocabulary = 256;
constexpr size_t kBatch = 1 << 16;

class ByteTokenizer : public Tokenizer {
 public:
  absl::StatusOr<int64_t> Encode(absl::string_view text, const Sink& sink) override {
    int64_t encoded = 0;
    for (size_t begin = 0; begin < text.size(); begin += kBatch) {
      const absl::string_view part = text.substr(begin, kBatch);
      ids_.clear();
      for (const char c : part) {
        if (c != '\0') ids_.push_back(static_cast<unsigned char>(c));
      }
      dropped_ += static_cast<int64_t>(part.size() - ids_.size());
      if (ids_.empty()) continue;
      encoded += static_cast<int64_t>(ids_.size());
      NIBBLE_RETURN_IF_ERROR(sink(ids_.data(), static_cast<int64_t>(ids_.size())));
    }
    return encoded;
  }

  absl::Status Decode(const std::vector<int32_t>& ids, std::string* text) const override {
    for (const int32_t id : ids) {
      if (id < 0 || id >= kByteVocabulary) {
        return absl::OutOfRangeError(absl::StrCat("token id ", id, "; allowed: 0 to 255"));
      }
      text->push_back(static_cast<char>(id));
    }
    return absl::OkStatus();
  }

  absl::string_view kind() const override { return "bytes"; }
  int32_t vocab_size() const override { return kByteVocabulary; }
  int32_t separator() const override { return 0; }
  std::string digest() const override { return Sha256Hex("bytes"); }
  int64_t dropped_nul_bytes() const override { return dropped_; }

 private:
  std::vector<int32_t> ids_;
  int64_t dropped_ = 0;
};

}  // namespace

void Tokenizer::EncodeAll(absl::string_view text, std::vector<int32_t>* ids) {
  const auto encoded = Encode(text, [ids](const int32_t* batch, int64_t count) {
    ids->insert(ids->end(), batch, batch + count);
    return absl::OkStatus();
  });
  NIBBLE_CHECK(encoded.ok());  // only the sink could fail
}

std::unique_ptr<Tokenizer> MakeByteTokenizer() { return std::make_unique<ByteTokenizer>(); }

}  // namespace nibble::data
