// What a client asks of the daemon.
#ifndef TESTS_SIM_CLIENT_CALL_H_
#define TESTS_SIM_CLIENT_CALL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "server/scheduler/types.h"

namespace nibble::sim {

struct ClientCall {
  enum class Kind { kSubmit, kCancel, kPause, kResume, kUpdate, kDelete, kDrain, kUndrain };
  Kind kind = Kind::kSubmit;
  std::shared_ptr<const scheduler::JobDocument> document;  // of kSubmit
  std::string job_id;
  std::string worker;
  int32_t priority = 0;  // of kUpdate
  bool evict = false;    // of kDrain
  int tries = 0;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_CLIENT_CALL_H_
