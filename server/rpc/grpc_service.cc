#include "server/rpc/grpc_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/support/slice.h>

#include <atomic>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/wire_check.h"

namespace nibble::rpc {
namespace {

using google::protobuf::MethodDescriptor;

// The bytes of `buffer`, RESOURCE_EXHAUSTED beyond max_bytes.
absl::StatusOr<std::string> BytesOf(const grpc::ByteBuffer& buffer, size_t max_bytes) {
  if (buffer.Length() > max_bytes) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat("the request has ", buffer.Length(),
                                                  " bytes; allowed: at most ", max_bytes)),
        kMessageTooLarge, {{"max_bytes", absl::StrCat(max_bytes)}});
  }
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return absl::InternalError("cannot read the request's bytes");
  std::string bytes;
  bytes.reserve(buffer.Length());
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

grpc::ByteBuffer BufferOf(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// Counts one call, from its arrival to its end.
class CallRecord {
 public:
  CallRecord(const MethodDescriptor* method, const CallEnvironment& environment)
      : method_(method), environment_(environment), start_(environment.clock->MonotonicNanos()) {}

  void End(const absl::Status& status) const {
    const int64_t nanos = environment_.clock->MonotonicNanos() - start_;
    environment_.telemetry->RpcEnded(absl::StrCat(method_->service()->name(), "/", method_->name()),
                                     absl::StatusCodeToString(status.code()),
                                     static_cast<double>(nanos) * 1e-9);
  }

 private:
  const MethodDescriptor* method_;
  CallEnvironment environment_;
  int64_t start_;
};

class UnaryCall : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(const MethodDescriptor* method, const CallEnvironment& environment,
            grpc::ByteBuffer* response)
      : record_(method, environment), response_(response) {}

  void Answer(absl::StatusOr<std::string> bytes) {
    record_.End(bytes.status());
    if (bytes.ok()) *response_ = BufferOf(*bytes);
    Finish(ToGrpcStatus(bytes.status()));  // *this may be gone from here on
  }
  void OnDone() override { delete this; }

 private:
  CallRecord record_;
  grpc::ByteBuffer* response_;
};

// Finish is called only where Next delivered or a write failed, and never twice, because there is
// always exactly one of Next and a write under way.
class StreamCall : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  StreamCall(const MethodDescriptor* method, const CallEnvironment& environment,
             std::shared_ptr<std::atomic<int>> open)
      : record_(method, environment), open_(std::move(open)) {}

  void Start(absl::StatusOr<std::shared_ptr<MessageSource<std::string>>> source) {
    if (!source.ok()) return End(source.status());
    source_ = *std::move(source);
    // OnCancel may already have come, and found no source to cancel.
    ready_.store(true);
    if (cancelled_.load()) source_->Cancel();
    Pull();
  }

  void OnWriteDone(bool ok) override {
    if (ok) return Pull();
    End(WithReason(absl::CancelledError("the reader is gone"), kCancelled));
  }
  void OnCancel() override {
    cancelled_.store(true);
    if (ready_.load()) source_->Cancel();
  }
  void OnDone() override {
    open_->fetch_sub(1);
    delete this;
  }

 private:
  void Pull() {
    source_->Next([this](absl::StatusOr<std::optional<std::string>> next) {
      if (!next.ok() || !next->has_value()) return End(next.status());
      message_ = BufferOf(**next);
      StartWrite(&message_);
    });
  }
  void End(const absl::Status& status) {
    record_.End(status);
    Finish(ToGrpcStatus(status));
  }

  CallRecord record_;
  std::shared_ptr<std::atomic<int>> open_;
  std::shared_ptr<MessageSource<std::string>> source_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> cancelled_{false};
  grpc::ByteBuffer message_;
};

}  // namespace

absl::Status ParseRequest(absl::string_view bytes, google::protobuf::Message* request) {
  const absl::Status checked = CheckWire(bytes, request->GetDescriptor());
  if (!checked.ok()) return checked;
  if (!request->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return WithReason(absl::InvalidArgumentError("the request is not a valid message"),
                      kMalformedMessage);
  }
  return absl::OkStatus();
}

std::string SerializeMessage(const google::protobuf::Message& message) {
  return message.SerializeAsString();
}

const MethodDescriptor* FindMethod(const google::protobuf::ServiceDescriptor* service,
                                   absl::string_view name) {
  const MethodDescriptor* method = service->FindMethodByName(std::string(name));
  NIBBLE_CHECK(method != nullptr);
  return method;
}

int MethodIndex(const MethodDescriptor* method) { return method->index(); }

grpc::internal::MethodHandler* NewUnaryHandler(const MethodDescriptor* method,
                                               size_t max_request_bytes,
                                               CallEnvironment environment,
                                               RawUnaryHandler handler) {
  return new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
      [=](grpc::CallbackServerContext*, const grpc::ByteBuffer* request,
          grpc::ByteBuffer* response) -> grpc::ServerUnaryReactor* {
        auto* call = new UnaryCall(method, environment, response);
        absl::StatusOr<std::string> bytes = BytesOf(*request, max_request_bytes);
        if (!bytes.ok()) {
          call->Answer(bytes.status());
        } else {
          handler(*bytes,
                  [call](absl::StatusOr<std::string> answer) { call->Answer(std::move(answer)); });
        }
        return call;
      });
}

grpc::internal::MethodHandler* NewStreamHandler(const MethodDescriptor* method,
                                                CallEnvironment environment,
                                                RawStreamHandler handler) {
  auto open = std::make_shared<std::atomic<int>>(0);
  return new grpc::internal::CallbackServerStreamingHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
      [=](grpc::CallbackServerContext*,
          const grpc::ByteBuffer* request) -> grpc::ServerWriteReactor<grpc::ByteBuffer>* {
        auto* call = new StreamCall(method, environment, open);
        absl::StatusOr<std::string> bytes = BytesOf(*request, kMaxControlMessageBytes);
        if (open->fetch_add(1) >= kMaxStreams) {
          call->Start(
              WithReason(absl::ResourceExhaustedError("too many open streams"), kOverloaded));
        } else if (!bytes.ok()) {
          call->Start(bytes.status());
        } else {
          call->Start(handler(*bytes));
        }
        return call;
      });
}

}  // namespace nibble::rpc
