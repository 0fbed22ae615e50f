// Care of a state directory: verifying it (nibbled --check) and copying it (nibbled --backup, and
// BackupState of the API).
#ifndef SERVER_STATE_CARE_H_
#define SERVER_STATE_CARE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "server/store/metric_store.h"
#include "server/store/store.h"

namespace nibble::daemon {

// Copies both databases to STATE/backups/NAME: jobs first, so that no job of the copy lacks metrics
// that its checkpoints rest on. The directory and its size in bytes. ALREADY_EXISTS for a name used
// before; errors of Store::BackUp, after which nothing is left of the copy.
absl::StatusOr<std::pair<std::string, int64_t>> BackUpStores(store::Store* store,
                                                             store::MetricStore* metric_store,
                                                             const std::string& state_directory,
                                                             const std::string& name);

// As `nibbled --backup NAME`: asks the daemon that has the directory, over its socket, or makes the
// copy itself where there is none. INVALID_ARGUMENT for a name that is no RFC 1123 label.
absl::StatusOr<std::pair<std::string, int64_t>> BackUpState(const std::string& state_directory,
                                                            const std::string& name);

// As `nibbled --check`: prints what is wrong, or what was found to be right. The exit status: 0 for
// a sound directory, 1 where something is wrong or it cannot be read.
int CheckState(const std::string& state_directory);

}  // namespace nibble::daemon

#endif  // SERVER_STATE_CARE_H_
