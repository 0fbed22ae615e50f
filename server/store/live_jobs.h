// Reading all live jobs when the daemon starts: the database's thread walks the tables while the
// caller's checks and decodes what it found.
#ifndef SERVER_STORE_LIVE_JOBS_H_
#define SERVER_STORE_LIVE_JOBS_H_

#include "absl/status/status.h"
#include "server/store/database_thread.h"
#include "server/store/store.h"

namespace nibble::store {

// Everything of Store::LoadLive, as at one instant. Copies damaged rows of jobs aside.
absl::Status LoadLiveState(DatabaseThread& thread, LiveState& state);

}  // namespace nibble::store

#endif  // SERVER_STORE_LIVE_JOBS_H_
