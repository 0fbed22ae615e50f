#include "server/rpc/relay.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/string_view.h"

namespace nibble::rpc {
namespace {

constexpr char kEmptySettings[] = "\0\0\0\4\0\0\0\0\0";
constexpr char kClosed[] = "";  // by one of its ends: nothing to report

// Sends what the socket takes and keeps the rest. False where the other end is gone.
bool Send(int descriptor, absl::string_view bytes, std::string* rest) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(descriptor, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) return false;
    if (sent < 0) break;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  rest->assign(bytes.data(), bytes.size());
  return true;
}

bool SendRest(int descriptor, std::string* rest) {
  const std::string bytes = std::move(*rest);
  rest->clear();
  return Send(descriptor, bytes, rest);
}

// Bytes read; 0 where there are none now; -1 at the end.
ssize_t Receive(int descriptor, absl::Span<char> buffer) {
  while (true) {
    const ssize_t count = ::recv(descriptor, buffer.data(), buffer.size(), 0);
    if (count > 0) return count;
    if (count < 0 && errno == EINTR) continue;
    return count < 0 && errno == EAGAIN ? 0 : -1;
  }
}

}  // namespace

Relay::~Relay() {
  ::close(client_);
  if (server_ >= 0) ::close(server_);
}

const char* Relay::ReadClient(absl::Span<char> buffer, int64_t now_nanos) {
  const ssize_t count = Receive(client_, buffer);
  if (count < 0) return kClosed;
  if (count == 0) return nullptr;
  heard_ = now_nanos;
  const absl::string_view bytes(buffer.data(), static_cast<size_t>(count));
  if (const char* fault = guard_.FromClient(bytes, now_nanos)) {
    // Speaks HTTP/2 back once, so that a client that wanted TLS can say what is wrong.
    std::string ignored;
    if (!connected()) Send(client_, {kEmptySettings, sizeof(kEmptySettings) - 1}, &ignored);
    return fault;
  }
  if (!connected()) {
    to_server_.append(bytes.data(), bytes.size());
    return nullptr;
  }
  return Send(server_, bytes, &to_server_) ? nullptr : kClosed;
}

const char* Relay::ReadServer(absl::Span<char> buffer, int64_t now_nanos) {
  const ssize_t count = Receive(server_, buffer);
  if (count < 0) {
    // The last words (GOAWAY, trailers) still go to the client.
    ended_ = now_nanos;
    return to_client_.empty() ? kClosed : nullptr;
  }
  const absl::string_view bytes(buffer.data(), static_cast<size_t>(count));
  if (const char* fault = guard_.FromServer(bytes, now_nanos)) return fault;
  if (!to_client_.empty()) {
    // Only after gRPC closed its end: what the socket between still held.
    to_client_.append(bytes.data(), bytes.size());
    return nullptr;
  }
  return Send(client_, bytes, &to_client_) ? nullptr : kClosed;
}

const char* Relay::WriteClient() {
  if (!SendRest(client_, &to_client_)) return kClosed;
  return ended_ != 0 && to_client_.empty() ? kClosed : nullptr;
}

const char* Relay::WriteServer() { return SendRest(server_, &to_server_) ? nullptr : kClosed; }

const char* Relay::Connect(int server) {
  server_ = server;
  return WriteServer();
}

uint32_t Relay::ClientEvents() const {
  return (to_server_.empty() || !connected() ? EPOLLIN : 0u) | (to_client_.empty() ? 0u : EPOLLOUT);
}

uint32_t Relay::ServerEvents() const {
  if (ended_ != 0) return 0;
  return (to_client_.empty() ? EPOLLIN : 0u) | (to_server_.empty() ? 0u : EPOLLOUT);
}

}  // namespace nibble::rpc
