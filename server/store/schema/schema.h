// The numbered migrations of schema/*.sql, embedded by the build.
#ifndef SERVER_STORE_SCHEMA_SCHEMA_H_
#define SERVER_STORE_SCHEMA_SCHEMA_H_

#include <vector>

namespace nibble::store {

// Element i brings version i to version i + 1, and sets user_version itself.
using Migrations = std::vector<const char*>;

const Migrations& JobsMigrations();
const Migrations& MetricsMigrations();

}  // namespace nibble::store

#endif  // SERVER_STORE_SCHEMA_SCHEMA_H_
