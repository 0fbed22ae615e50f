// A copy of a database as at one instant, made while it is read and written.
#ifndef SERVER_STORE_BACKUP_H_
#define SERVER_STORE_BACKUP_H_

#include <string>

#include "absl/status/status.h"
#include "server/store/database_thread.h"

namespace nibble::store {

// Writes the database to a new file at `path`, durably, in turns of a few milliseconds on the
// database's thread, between which others go on; what they write meanwhile is in the copy.
// ALREADY_EXISTS where the file is there. RESOURCE_EXHAUSTED: the disk is full; nothing is left of
// the copy. Other errors of the copy's file say nothing of the database.
absl::Status BackUpDatabase(DatabaseThread& thread, const std::string& path);

}  // namespace nibble::store

#endif  // SERVER_STORE_BACKUP_H_
