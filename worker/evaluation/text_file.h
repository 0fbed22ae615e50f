// Evaluation files as text: decompressed, archives unpacked. Internal to worker/evaluation.
#ifndef WORKER_EVALUATION_TEXT_FILE_H_
#define WORKER_EVALUATION_TEXT_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace nibble::evaluation {

struct TextMember {
  std::string name;  // the path, for an archive's members followed by ":" and their name
  std::string text;
};

// One member, or for a tar archive its regular files in the archive's order. NOT_FOUND; DATA_LOSS:
// damaged; RESOURCE_EXHAUSTED: over kMaxFileBytes.
absl::StatusOr<std::vector<TextMember>> ReadTextFile(const std::string& path);

}  // namespace nibble::evaluation

#endif  // WORKER_EVALUATION_TEXT_FILE_H_
