#include "worker/data/split_plan.h"

#include <cstring>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "kernels/nvfp4/philox.h"

namespace nibble::data {
namespace {

// A document of a serialised plan.
struct Added {
  uint64_t hash;
  int64_t bytes;
};

}  // namespace

uint64_t DocumentHash(absl::string_view text) {
  uint64_t hash = 0;
  const std::string digest = Sha256Hex(text);
  const bool parsed = absl::SimpleHexAtoi(absl::string_view(digest).substr(0, 16), &hash);
  return parsed ? hash : 0;
}

bool IsHeldOutByHash(uint64_t document_hash, uint64_t seed, double fraction) {
  const PhiloxResult random =
      Philox4x32(static_cast<uint32_t>(document_hash), static_cast<uint32_t>(document_hash >> 32),
                 0, 0, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return random.v[0] < fraction * 4294967296.0;
}

absl::Status LastSplitPlan::Add(uint64_t document_hash, int64_t bytes) {
  if (documents() >= kMaxDocuments) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "over ", kMaxDocuments, " documents; split by hash, which needs no list of them"));
  }
  documents_.push_back({document_hash, bytes, static_cast<uint32_t>(documents_.size())});
  return absl::OkStatus();
}

std::string LastSplitPlan::Serialize() const {
  std::string bytes(documents_.size() * sizeof(Added), '\0');
  for (size_t i = 0; i < documents_.size(); ++i) {
    const Added added{documents_[i].hash, documents_[i].bytes};
    std::memcpy(bytes.data() + i * sizeof(Added), &added, sizeof(Added));
  }
  return bytes;
}

absl::StatusOr<LastSplitPlan> LastSplitPlan::Parse(absl::string_view bytes) {
  if (bytes.size() % sizeof(Added) != 0) {
    return absl::DataLossError("the plan of the split is damaged");
  }
  LastSplitPlan plan;
  for (size_t at = 0; at < bytes.size(); at += sizeof(Added)) {
    Added added;
    std::memcpy(&added, bytes.data() + at, sizeof(Added));
    NIBBLE_RETURN_IF_ERROR(plan.Add(added.hash, added.bytes));
  }
  return plan;
}

// Sums copies onto the first one, by an open-addressed table of indices.
void LastSplitPlan::FindCopies() {
  constexpr uint32_t kFree = 0xffffffff;
  size_t slots = 16;
  while (slots < 2 * documents_.size()) slots *= 2;
  std::vector<uint32_t> table(slots, kFree);
  for (uint32_t i = 0; i < documents_.size(); ++i) {
    Document& document = documents_[i];
    size_t slot = document.hash & (slots - 1);
    while (table[slot] != kFree && documents_[table[slot]].hash != document.hash) {
      slot = (slot + 1) & (slots - 1);
    }
    if (table[slot] == kFree) {
      table[slot] = i;
      continue;
    }
    document.first = table[slot];
    documents_[document.first].bytes += document.bytes;
    document.bytes = 0;
  }
}

absl::Status LastSplitPlan::Decide(double fraction) {
  FindCopies();
  double total = 0;
  for (const Document& document : documents_) total += static_cast<double>(document.bytes);
  double held_out = 0;
  cut_ = static_cast<uint32_t>(documents_.size());
  while (cut_ > 0 && held_out < fraction * total) {
    held_out += static_cast<double>(documents_[--cut_].bytes);
  }
  if (cut_ > 0 || documents_.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "holding out ", fraction, " of the text leaves no document to train on, of ",
      documents_.size(), "; give more files, a document separator, or validation fraction 0"));
}

}  // namespace nibble::data
