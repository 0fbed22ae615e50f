// What a handler of an API call sees: a checked request and a place for the answer. No gRPC here,
// so that handlers and their tests do not need it.
#ifndef SERVER_RPC_CALL_H_
#define SERVER_RPC_CALL_H_

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"

namespace nibble::rpc {

// Answers a call. Called exactly once, on any thread, during the handler or later.
template <typename Response>
using Reply = std::function<void(absl::StatusOr<Response>)>;

// The messages of a server stream, pulled one at a time: the next is asked for when the one before
// has been handed to the transport, so a slow reader holds one message, whatever happens meanwhile.
template <typename Response>
class MessageSource {
 public:
  // A message, nullopt at the end of the stream, or why it failed.
  using Deliver = std::function<void(absl::StatusOr<std::optional<Response>>)>;

  virtual ~MessageSource() = default;
  // Calls `deliver` exactly once, on any thread, now or when there is something to say. Must not
  // block. One at a time.
  virtual void Next(Deliver deliver) = 0;
  // The reader is gone: a Next that waits, and every later one, answers CANCELLED at once.
  virtual void Cancel() = 0;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_CALL_H_
