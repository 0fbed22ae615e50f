// Early return on an error status.
#ifndef BASE_STATUS_MACROS_H_
#define BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define NIBBLE_CONCAT_INNER_(a, b) a##b
#define NIBBLE_CONCAT_(a, b) NIBBLE_CONCAT_INNER_(a, b)

// Returns the status of `expression` from the enclosing function unless it is OK.
#define NIBBLE_RETURN_IF_ERROR(expression)           \
  do {                                               \
    ::absl::Status nibble_status_ = (expression);    \
    if (!nibble_status_.ok()) return nibble_status_; \
  } while (false)

// NIBBLE_ASSIGN_OR_RETURN(auto x, F()): x is the value of the StatusOr, or its status is returned.
#define NIBBLE_ASSIGN_OR_RETURN(lhs, expression) \
  NIBBLE_ASSIGN_OR_RETURN_IMPL_(NIBBLE_CONCAT_(nibble_statusor_, __LINE__), lhs, expression)
#define NIBBLE_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expression) \
  auto statusor = (expression);                                  \
  if (!statusor.ok()) return std::move(statusor).status();       \
  lhs = std::move(statusor).value()

#endif  // BASE_STATUS_MACROS_H_
