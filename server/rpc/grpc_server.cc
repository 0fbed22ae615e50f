#include "server/rpc/grpc_server.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/resource.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "base/tls_files.h"
#include "nibble/v1/training_service.grpc.pb.h"
#include "nibble/v1/worker_service.grpc.pb.h"
#include "server/rpc/grpc_service.h"
#include "server/rpc/listening_socket.h"

namespace nibble::rpc {
namespace {

// Whole headers of one call. Ours are a few hundred bytes.
constexpr int kMaxMetadataBytes = 16 * 1024;
constexpr int kMaxConcurrentStreamsPerConnection = 512;
// Buffers of the transport, over all connections; beyond it gRPC refuses new ones.
constexpr size_t kTransportMemoryBytes = 256u << 20;
// Only reflection streams hold a thread each.
constexpr int kMaxThreads = 64;
constexpr int kMillis = 1000;

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const TlsFiles& files) {
  if (files.certificate.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      files.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                              : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  grpc::SslServerCredentialsOptions::PemKeyCertPair pair;
  NIBBLE_ASSIGN_OR_RETURN(TlsContents contents,
                          ReadTlsFiles({files.client_ca, files.certificate, files.key}));
  pair.cert_chain = std::move(contents.certificate);
  pair.private_key = std::move(contents.key);
  options.pem_key_cert_pairs.push_back(std::move(pair));
  options.pem_root_certs = std::move(contents.authority);
  return grpc::SslServerCredentials(options);
}

void SetLimits(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(kMaxAppendMessageBytes) + 1024);
  // Compressed requests would be inflated before any limit of ours applies.
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  grpc::ResourceQuota quota("nibbled");
  quota.Resize(kTransportMemoryBytes);
  quota.SetMaxThreads(kMaxThreads);
  builder->SetResourceQuota(quota);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConcurrentStreamsPerConnection);
  // A peer that connects and says nothing gives its descriptor back after this.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10 * kMillis);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 600 * kMillis);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30 * kMillis);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10 * kMillis);
  // Clients may ping every 5 s, also with no call under way.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5 * kMillis);
}

// Linking the reflection library adds its plugin to every server; this takes it out again.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(),
                                  [](const auto& plugin) {
                                    return plugin->name() == "proto_server_reflection";
                                  }),
                   plugins->end());
  }
};

absl::Status CheckAddresses(const GrpcServerOptions& options) {
  for (const std::string& address : options.listen) {
    NIBBLE_RETURN_IF_ERROR(SplitAddress(address).status());
    if (options.tls.certificate.empty() && !options.insecure && !IsLoopback(address)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "refusing to listen on ", address,
          " without TLS: anyone who reaches it could run jobs. Give --tls-cert and --tls-key (and "
          "--tls-client-ca to demand client certificates), or say --insecure if the network is "
          "trusted."));
    }
  }
  if (options.tls.certificate.empty() != options.tls.key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  if (!options.tls.client_ca.empty() && options.tls.certificate.empty()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  if (options.unix_socket.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the socket path ", options.unix_socket, " has ", options.unix_socket.size(),
                     " bytes; allowed: at most ", sizeof(sockaddr_un::sun_path) - 1,
                     ". Use a shorter --state-dir."));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsLoopback(absl::string_view address) {
  const absl::StatusOr<HostPort> split = SplitAddress(address);
  if (!split.ok()) return false;
  // Only numbers: a name that starts with "127." can resolve to anything.
  const bool ipv4 = absl::StartsWith(split->host, "127.") &&
                    split->host.find_first_not_of("0123456789.") == std::string::npos;
  return ipv4 || split->host == "localhost" || split->host == "[::1]";
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services) {
  NIBBLE_RETURN_IF_ERROR(CheckAddresses(options));
  NIBBLE_ASSIGN_OR_RETURN(auto credentials, Credentials(options.tls));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  SetLimits(&builder);
  using Acceptors = grpc::ServerBuilder::experimental_type;
  const auto add = [&](std::shared_ptr<grpc::ServerCredentials> of) {
    return builder.experimental().AddExternalConnectionAcceptor(
        Acceptors::ExternalConnectionType::FROM_FD, std::move(of));
  };
  auto server = std::unique_ptr<GrpcServer>(new GrpcServer);
  server->tcp_acceptor_ = add(std::move(credentials));
  server->unix_acceptor_ = add(grpc::InsecureServerCredentials());
  for (grpc::Service* service : services) builder.RegisterService(service);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) return absl::InternalError("cannot start the gRPC server");
  for (const char* name :
       {v1::TrainingService::service_full_name(), v1::WorkerService::service_full_name()}) {
    server->server_->GetHealthCheckService()->SetServingStatus(name, true);
  }
  NIBBLE_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

absl::Status GrpcServer::Listen(const GrpcServerOptions& options) {
  rlimit descriptors{};
  ::getrlimit(RLIMIT_NOFILE, &descriptors);
  NIBBLE_ASSIGN_OR_RETURN(
      gate_,
      Gate::Start(&RealClock(), static_cast<int>(std::min<rlim_t>(descriptors.rlim_cur, INT_MAX))));
  const auto into = [](grpc::experimental::ExternalConnectionAcceptor* acceptor) {
    return [acceptor](int descriptor) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
      connection.fd = descriptor;
      acceptor->HandleNewConnection(&connection);
    };
  };
  const Passage passage = options.tls.certificate.empty() ? Passage::kGuarded : Passage::kDirect;
  for (const std::string& address : options.listen) {
    NIBBLE_ASSIGN_OR_RETURN(const ListeningSockets sockets, ListenTcp(address));
    addresses_.push_back(absl::StrCat(SplitAddress(address)->host, ":", sockets.port));
    gate_->Open(sockets.descriptors, passage, into(tcp_acceptor_.get()));
  }
  if (options.unix_socket.empty()) return absl::OkStatus();
  NIBBLE_ASSIGN_OR_RETURN(const ListeningSockets socket, ListenUnix(options.unix_socket));
  gate_->Open(socket.descriptors, Passage::kDirect, into(unix_acceptor_.get()));
  return absl::OkStatus();
}

GrpcServer::~GrpcServer() {
  if (gate_ != nullptr) gate_->Stop();
}

void GrpcServer::StopServing() {
  if (server_->GetHealthCheckService() != nullptr) {
    server_->GetHealthCheckService()->SetServingStatus(false);
  }
}

void GrpcServer::ShutDown(double grace_seconds) {
  gate_->StopAccepting();
  server_->Shutdown(std::chrono::system_clock::now() +
                    std::chrono::milliseconds(static_cast<int64_t>(grace_seconds * 1000)));
  gate_->Stop();
}

}  // namespace nibble::rpc
