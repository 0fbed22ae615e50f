// Pre-tokenizers: text into the pieces within which byte pairs are merged. Internal to worker/data.
#ifndef WORKER_DATA_PRETOKENIZER_H_
#define WORKER_DATA_PRETOKENIZER_H_

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::data {

enum class PretokenizerKind { kGpt2, kLlama3 };

// Not thread-safe.
class Pretokenizer {
 public:
  // INTERNAL where PCRE2 cannot compile the pattern.
  static absl::StatusOr<std::unique_ptr<Pretokenizer>> Make(
      PretokenizerKind kind = PretokenizerKind::kGpt2);
  ~Pretokenizer();

  // End of the piece that starts at `begin`; more than `begin`.
  // REQUIRES: `text` is valid UTF-8, `begin` < text.size() and the start of a piece.
  size_t EndOfPiece(absl::string_view text, size_t begin) const;

 private:
  struct Pattern;
  Pretokenizer(PretokenizerKind kind, std::unique_ptr<Pattern> pattern);
  size_t MatchPattern(absl::string_view text, size_t begin) const;

  const PretokenizerKind kind_;
  std::unique_ptr<Pattern> pattern_;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_PRETOKENIZER_H_
