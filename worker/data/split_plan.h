// Which documents are held out. Internal to worker/data.
#ifndef WORKER_DATA_SPLIT_PLAN_H_
#define WORKER_DATA_SPLIT_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::data {

// First 64 bits of the text's SHA-256. Equal texts, equal hashes; two texts of one hash would only
// share a side.
uint64_t DocumentHash(absl::string_view text);

// SplitMethod::kHash: a pure function of the text's hash and the seed.
bool IsHeldOutByHash(uint64_t document_hash, uint64_t seed, double fraction);

// SplitMethod::kLast, from what a first pass over all documents saw. Copies of a document go where
// its first one goes, so that no text is on both sides.
class LastSplitPlan {
 public:
  // 24 bytes of memory each while deciding.
  static constexpr int64_t kMaxDocuments = 8'000'000;

  // RESOURCE_EXHAUSTED over kMaxDocuments.
  absl::Status Add(uint64_t document_hash, int64_t bytes);

  // What was added, for another process. REQUIRES: before Decide.
  std::string Serialize() const;
  // DATA_LOSS: not what Serialize gives.
  static absl::StatusOr<LastSplitPlan> Parse(absl::string_view bytes);

  // Holds out as few documents from the end as have at least `fraction` of the bytes.
  // INVALID_ARGUMENT where that leaves none to train on.
  absl::Status Decide(double fraction);

  int64_t documents() const { return static_cast<int64_t>(documents_.size()); }
  // After Decide. REQUIRES: 0 <= index < documents().
  bool IsHeldOut(int64_t index) const { return documents_[index].first >= cut_; }
  uint64_t hash(int64_t index) const { return documents_[index].hash; }

 private:
  struct Document {
    uint64_t hash;
    int64_t bytes;   // of all copies together on the first one, 0 on the others
    uint32_t first;  // index of the first copy
  };
  void FindCopies();

  std::vector<Document> documents_;
  uint32_t cut_ = 0;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_SPLIT_PLAN_H_
