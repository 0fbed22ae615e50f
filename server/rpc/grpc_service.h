// Binds handlers to the methods of a generated service, through gRPC's callback interface: a call
// or stream that waits costs memory but no thread.
//
// Requests arrive as bytes and pass the size limit and CheckWire before they are parsed, so every
// malformed one is answered INVALID_ARGUMENT or RESOURCE_EXHAUSTED with details, where gRPC itself
// would say INTERNAL.
#ifndef SERVER_RPC_GRPC_SERVICE_H_
#define SERVER_RPC_GRPC_SERVICE_H_

#include <grpcpp/impl/codegen/service_type.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "server/rpc/call.h"
#include "server/telemetry/telemetry.h"

namespace google::protobuf {
class Message;
class MethodDescriptor;
class ServiceDescriptor;
}  // namespace google::protobuf

namespace nibble::rpc {

// Control messages are small. Appends of metrics and logs carry batches.
inline constexpr size_t kMaxControlMessageBytes = 256 * 1024;
inline constexpr size_t kMaxAppendMessageBytes = 1024 * 1024;
// Server streams open at one time, per method.
inline constexpr int kMaxStreams = 4096;

// How every call is run and counted. Outlives the server.
struct CallEnvironment {
  telemetry::Telemetry* telemetry = nullptr;
  const Clock* clock = nullptr;
};

// The type-erased halves of the templates below.
using RawUnaryHandler = std::function<void(absl::string_view request, Reply<std::string>)>;
using RawStreamHandler =
    std::function<absl::StatusOr<std::shared_ptr<MessageSource<std::string>>>(absl::string_view)>;

// Checks the bytes and parses them into *request.
absl::Status ParseRequest(absl::string_view bytes, google::protobuf::Message* request);
std::string SerializeMessage(const google::protobuf::Message& message);
// Index of the method in its service; the name must exist.
const google::protobuf::MethodDescriptor* FindMethod(
    const google::protobuf::ServiceDescriptor* service, absl::string_view name);
grpc::internal::MethodHandler* NewUnaryHandler(const google::protobuf::MethodDescriptor* method,
                                               size_t max_request_bytes,
                                               CallEnvironment environment,
                                               RawUnaryHandler handler);
grpc::internal::MethodHandler* NewStreamHandler(const google::protobuf::MethodDescriptor* method,
                                                CallEnvironment environment,
                                                RawStreamHandler handler);
int MethodIndex(const google::protobuf::MethodDescriptor* method);

// Serialises what a typed source delivers.
template <typename Response>
class SerializingSource : public MessageSource<std::string> {
 public:
  explicit SerializingSource(std::shared_ptr<MessageSource<Response>> source)
      : source_(std::move(source)) {}
  void Next(Deliver deliver) override {
    source_->Next([deliver](absl::StatusOr<std::optional<Response>> next) {
      if (!next.ok()) return deliver(next.status());
      if (!next->has_value()) return deliver(std::optional<std::string>());
      deliver(std::optional<std::string>(SerializeMessage(**next)));
    });
  }
  void Cancel() override { source_->Cancel(); }

 private:
  std::shared_ptr<MessageSource<Response>> source_;
};

// `GeneratedService` is v1::X::Service. Methods that are not bound answer UNIMPLEMENTED.
template <typename GeneratedService>
class BoundService : public GeneratedService {
 public:
  BoundService(const google::protobuf::ServiceDescriptor* descriptor, CallEnvironment environment)
      : descriptor_(descriptor), environment_(environment) {}

  template <typename Request, typename Response>
  void Unary(absl::string_view name, std::function<void(const Request&, Reply<Response>)> handler,
             size_t max_request_bytes = kMaxControlMessageBytes) {
    const auto* method = FindMethod(descriptor_, name);
    auto raw = [handler = std::move(handler)](absl::string_view bytes, Reply<std::string> reply) {
      Request request;
      const absl::Status parsed = ParseRequest(bytes, &request);
      if (!parsed.ok()) return reply(parsed);
      handler(request, [reply = std::move(reply)](absl::StatusOr<Response> response) {
        if (!response.ok()) return reply(response.status());
        reply(SerializeMessage(*response));
      });
    };
    this->MarkMethodRawCallback(MethodIndex(method), NewUnaryHandler(method, max_request_bytes,
                                                                     environment_, std::move(raw)));
  }

  template <typename Request, typename Response>
  void Stream(
      absl::string_view name,
      std::function<absl::StatusOr<std::shared_ptr<MessageSource<Response>>>(const Request&)>
          handler) {
    const auto* method = FindMethod(descriptor_, name);
    auto raw = [handler = std::move(handler)](absl::string_view bytes)
        -> absl::StatusOr<std::shared_ptr<MessageSource<std::string>>> {
      Request request;
      const absl::Status parsed = ParseRequest(bytes, &request);
      if (!parsed.ok()) return parsed;
      auto source = handler(request);
      if (!source.ok()) return source.status();
      return std::make_shared<SerializingSource<Response>>(*std::move(source));
    };
    this->MarkMethodRawCallback(MethodIndex(method),
                                NewStreamHandler(method, environment_, std::move(raw)));
  }

 private:
  const google::protobuf::ServiceDescriptor* descriptor_;
  CallEnvironment environment_;
};

}  // namespace nibble::rpc

#endif  // SERVER_RPC_GRPC_SERVICE_H_
