// Another program's model as a checkpoint of ours.
#ifndef WORKER_INTERCHANGE_IMPORT_H_
#define WORKER_INTERCHANGE_IMPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/interchange/foreign_model.h"
#include "worker/model/parameter_table.h"

namespace nibble::interchange {

struct ImportResult {
  checkpoint::SavedCheckpoint saved;
  int64_t parameters = 0;
  // SHA-256, hex, over the FP32 values of all weights in the order of the parameter table: equal
  // weights have equal digests, whatever file they came from.
  std::string weights_digest;
};

// Writes the checkpoint directory `out`: weights in FP32, model.yaml and `texts` (a tokenizer's
// files), nothing to resume from. ALREADY_EXISTS where something is there; RESOURCE_EXHAUSTED: disk
// full.
absl::StatusOr<ImportResult> ImportModel(const ForeignModel& model,
                                         const std::vector<checkpoint::TextFile>& texts,
                                         const std::string& out);

}  // namespace nibble::interchange

#endif  // WORKER_INTERCHANGE_IMPORT_H_
