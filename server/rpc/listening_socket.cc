#include "server/rpc/listening_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble::rpc {
namespace {

// A thousand workers may come back at once; the kernel caps this by net.core.somaxconn.
constexpr int kBacklog = 4096;

absl::Status CannotListen(absl::string_view address, int error) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address,
                                             ": the address is in use or not of this machine (",
                                             std::strerror(error), ")"));
}

int PortOf(int descriptor) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (::getsockname(descriptor, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

void SetPort(addrinfo* info, int port) {
  if (info->ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(info->ai_addr)->sin6_port = htons(static_cast<uint16_t>(port));
  } else {
    reinterpret_cast<sockaddr_in*>(info->ai_addr)->sin_port = htons(static_cast<uint16_t>(port));
  }
}

// A descriptor, or minus errno.
int Bind(int family, const sockaddr* address, socklen_t size, bool only_ipv6) {
  const int descriptor = ::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return -errno;
  const int on = 1;
  // A restarted daemon takes its port again while connections of the earlier one linger. No
  // SO_REUSEPORT: with it a second daemon would share the port.
  ::setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const int v6 = only_ipv6 ? 1 : 0;
  if (family == AF_INET6) ::setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &v6, sizeof(v6));
  if (::bind(descriptor, address, size) == 0 && ::listen(descriptor, kBacklog) == 0) {
    return descriptor;
  }
  const int error = errno;
  ::close(descriptor);
  return -error;
}

}  // namespace

absl::StatusOr<HostPort> SplitAddress(absl::string_view address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("address '", address, "' is not HOST:PORT with a port of 0 to 65535"));
  }
  return HostPort{std::string(address.substr(0, colon)), port};
}

absl::StatusOr<ListeningSockets> ListenTcp(absl::string_view address) {
  NIBBLE_ASSIGN_OR_RETURN(const HostPort wanted, SplitAddress(address));
  std::string host = wanted.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  ListeningSockets sockets;
  sockets.port = wanted.port;
  int failed = 0;
  for (addrinfo* info = found; info != nullptr; info = info->ai_next) {
    if (info->ai_family != AF_INET && info->ai_family != AF_INET6) continue;
    SetPort(info, sockets.port);
    const int descriptor =
        Bind(info->ai_family, info->ai_addr, info->ai_addrlen, /*only_ipv6=*/host != "::");
    if (descriptor < 0) {
      failed = -descriptor;
      // A name may have an address of a family that this machine lacks.
      if (failed == EADDRNOTAVAIL || failed == EAFNOSUPPORT) continue;
      for (const int open : sockets.descriptors) ::close(open);
      return CannotListen(address, failed);
    }
    sockets.descriptors.push_back(descriptor);
    if (sockets.port == 0) sockets.port = PortOf(descriptor);
  }
  if (sockets.descriptors.empty()) return CannotListen(address, failed);
  return sockets;
}

absl::StatusOr<ListeningSockets> ListenUnix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof(address.sun_path) - 1));
  struct stat info;
  if (::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) ::unlink(path.c_str());
  const int descriptor =
      Bind(AF_UNIX, reinterpret_cast<const sockaddr*>(&address), sizeof(address), false);
  if (descriptor < 0) return CannotListen(absl::StrCat("unix:", path), -descriptor);
  if (::chmod(path.c_str(), 0600) != 0) {
    ::close(descriptor);
    return ErrnoStatus(errno, "chmod", path);
  }
  return ListeningSockets{{descriptor}, 0};
}

}  // namespace nibble::rpc
