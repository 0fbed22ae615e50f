#include "server/rpc/gate.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <list>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/mutex.h"
#include "server/rpc/relay.h"

namespace nibble::rpc {
namespace {

constexpr size_t kBufferBytes = 64 * 1024;
constexpr int kEventsAtOnce = 64;
// Accepted from one socket before the connections that are there get their turn.
constexpr int kAcceptsAtOnce = 64;
constexpr int kLastReads = 4;
constexpr int kSweepMillis = 1000;
constexpr int64_t kNanosPerMilli = 1'000'000;
// A connection heard this lately does not give way to a new one.
constexpr int64_t kBusyNanos = 1'000'000'000;
constexpr int64_t kLogEveryNanos = 1'000'000'000;
// Unacknowledged data for so long ends a connection, as gRPC itself would set it.
constexpr unsigned kTcpPatienceMillis = 20'000;

struct Entrance {
  int descriptor;
  Passage passage;
  Gate::HandOver hand_over;
  bool listens = true;  // false while descriptors are short
};

// Handed to gRPC, which closes it: the number may be another file by now, the inode tells.
struct Direct {
  int descriptor;
  ino_t inode;
  int64_t since_nanos;
};

ino_t InodeOf(int descriptor) {
  struct stat info;
  return ::fstat(descriptor, &info) == 0 && S_ISSOCK(info.st_mode) ? info.st_ino : 0;
}

// What gRPC would have set. No matter for a Unix socket, where it fails.
void SetClientOptions(int descriptor) {
  const int on = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &kTcpPatienceMillis,
               sizeof(kTcpPatienceMillis));
}

}  // namespace

class Gate::Loop {
 public:
  Loop(const Clock* clock, int descriptor_limit, int epoll, int wake)
      : clock_(clock),
        highest_descriptor_(descriptor_limit - kReservedDescriptors),
        epoll_(epoll),
        wake_(wake),
        buffer_(kBufferBytes, '\0') {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = wake_;
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
  }
  ~Loop() {
    for (const Entrance& entrance : entrances_) ::close(entrance.descriptor);
    for (const auto& [descriptor, entrance] : waiting_) ::close(descriptor);
    relays_.clear();
    ::close(wake_);
    ::close(epoll_);
  }

  void Run();
  void Ask(std::function<void()> what) {
    {
      MutexLock lock(mutex_);
      asked_.push_back(std::move(what));
    }
    const uint64_t one = 1;
    // It cannot fail: the counter would have to be full.
    if (::write(wake_, &one, sizeof(one)) < 0) return;
  }
  void Open(const std::vector<int>& listening, Passage passage, const HandOver& hand_over);
  void StopAccepting();
  void Stop();

 private:
  struct Ends {
    std::shared_ptr<Relay> relay;
    const Entrance* entrance;
    uint32_t client_events = 0;
    uint32_t server_events = 0;
  };

  int64_t Now() const { return clock_->MonotonicNanos(); }
  void Watch(int descriptor, uint32_t events, uint32_t* current, int operation);
  void Handle(int descriptor, uint32_t events);
  void Accept(Entrance* entrance);
  void Admit(Entrance* entrance, int descriptor);
  void HandleRelay(int descriptor, uint32_t events);
  const char* MoveRelay(Relay* relay, int descriptor, uint32_t events);
  const char* ConnectRelay(Ends* ends);
  void Refresh(Ends* ends);
  void Close(int client, const char* why);
  bool MakeRoom();
  bool EvictWaiting();
  bool EvictRelay();
  bool EvictDirect();
  void Sweep();
  void Listen(Entrance* entrance, bool listens);
  void Report(const char* why);

  const Clock* const clock_;
  const int highest_descriptor_;
  const int epoll_;
  const int wake_;
  std::string buffer_;
  bool running_ = true;
  std::list<Entrance> entrances_;
  std::unordered_map<int, Ends> relays_;    // by the client's descriptor
  std::unordered_map<int, int> client_of_;  // by gRPC's end
  std::map<int, Entrance*> waiting_;        // direct connections that said nothing yet
  std::map<int, int64_t> waiting_since_;
  std::list<Direct> direct_;
  int64_t reported_at_ = 0;
  int unreported_ = 0;
  Mutex mutex_;
  std::vector<std::function<void()>> asked_ GUARDED_BY(mutex_);
};

void Gate::Loop::Watch(int descriptor, uint32_t events, uint32_t* current, int operation) {
  if (operation == EPOLL_CTL_MOD && *current == events) return;
  *current = events;
  epoll_event event{};
  event.events = events;
  event.data.fd = descriptor;
  ::epoll_ctl(epoll_, operation, descriptor, &event);
}

void Gate::Loop::Run() {
  epoll_event events[kEventsAtOnce];
  int64_t swept = Now();
  while (running_) {
    const int count = ::epoll_wait(epoll_, events, kEventsAtOnce, kSweepMillis);
    for (int i = 0; i < count && running_; ++i) Handle(events[i].data.fd, events[i].events);
    if (Now() - swept >= kSweepMillis * kNanosPerMilli) {
      swept = Now();
      Sweep();
    }
  }
}

void Gate::Loop::Handle(int descriptor, uint32_t events) {
  if (descriptor == wake_) {
    uint64_t count;
    if (::read(wake_, &count, sizeof(count)) < 0) return;
    std::vector<std::function<void()>> asked;
    {
      MutexLock lock(mutex_);
      asked.swap(asked_);
    }
    for (const auto& what : asked) what();
    return;
  }
  for (Entrance& entrance : entrances_) {
    if (entrance.descriptor == descriptor) return Accept(&entrance);
  }
  const auto waits = waiting_.find(descriptor);
  if (waits == waiting_.end()) return HandleRelay(descriptor, events);
  const Entrance* entrance = waits->second;
  ::epoll_ctl(epoll_, EPOLL_CTL_DEL, descriptor, nullptr);
  waiting_since_.erase(descriptor);
  waiting_.erase(waits);
  direct_.push_back({descriptor, InodeOf(descriptor), Now()});
  entrance->hand_over(descriptor);
}

void Gate::Loop::Open(const std::vector<int>& listening, Passage passage,
                      const HandOver& hand_over) {
  for (const int descriptor : listening) {
    entrances_.push_back({descriptor, passage, hand_over});
    uint32_t events = 0;
    Watch(descriptor, EPOLLIN, &events, EPOLL_CTL_ADD);
  }
}

void Gate::Loop::Listen(Entrance* entrance, bool listens) {
  if (entrance->listens == listens || entrance->descriptor < 0) return;
  entrance->listens = listens;
  const uint32_t wanted = listens ? uint32_t{EPOLLIN} : 0u;
  uint32_t events = ~wanted;
  Watch(entrance->descriptor, wanted, &events, EPOLL_CTL_MOD);
}

// Entrances stay, for the connections that remember theirs.
void Gate::Loop::StopAccepting() {
  for (Entrance& entrance : entrances_) {
    if (entrance.descriptor >= 0) ::close(entrance.descriptor);
    entrance.descriptor = -1;
  }
}

// What gRPC said at the last still goes out.
void Gate::Loop::Stop() {
  running_ = false;
  for (auto& [client, ends] : relays_) {
    for (int i = 0; i < kLastReads && ends.relay->connected(); ++i) {
      if (ends.relay->ReadServer({buffer_.data(), buffer_.size()}, Now()) != nullptr) break;
    }
  }
}

void Gate::Loop::Accept(Entrance* entrance) {
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    const int descriptor =
        ::accept4(entrance->descriptor, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor >= 0) {
      // Numbers are given out from the lowest that is free: a high one says that few are left.
      if (descriptor >= highest_descriptor_ && !MakeRoom()) {
        ::close(descriptor);
        Report("no descriptor is left for it");
        continue;
      }
      Admit(entrance, descriptor);
      continue;
    }
    if (errno == EAGAIN) return;
    const bool short_of_them =
        errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
    // Whatever else went wrong concerned that connection only.
    if (!short_of_them) continue;
    // One at a time, because gRPC gives its descriptors back later; on with the next sweep.
    const bool at_once = MakeRoom() && entrance->passage == Passage::kGuarded;
    if (!at_once) return Listen(entrance, false);
  }
}

void Gate::Loop::Admit(Entrance* entrance, int descriptor) {
  uint32_t events = 0;
  SetClientOptions(descriptor);
  if (entrance->passage == Passage::kDirect) {
    waiting_[descriptor] = entrance;
    waiting_since_[descriptor] = Now();
    Watch(descriptor, EPOLLIN, &events, EPOLL_CTL_ADD);
    return;
  }
  Ends& ends = relays_[descriptor];
  ends = Ends{std::make_shared<Relay>(descriptor, Now()), entrance};
  Watch(descriptor, ends.relay->ClientEvents(), &ends.client_events, EPOLL_CTL_ADD);
}

// An error or an end shows in the reading or writing that follows.
const char* Gate::Loop::MoveRelay(Relay* relay, int descriptor, uint32_t events) {
  const absl::Span<char> buffer(buffer_.data(), buffer_.size());
  const bool failed = (events & (EPOLLERR | EPOLLHUP)) != 0;
  const bool is_client = descriptor == relay->client();
  const uint32_t wanted = is_client ? relay->ClientEvents() : relay->ServerEvents();
  if ((events & EPOLLOUT) != 0) {
    if (const char* over = is_client ? relay->WriteClient() : relay->WriteServer()) return over;
  }
  if ((events & EPOLLIN) != 0 && (wanted & EPOLLIN) != 0) {
    return is_client ? relay->ReadClient(buffer, Now()) : relay->ReadServer(buffer, Now());
  }
  // Reported even where nothing was asked for.
  if (failed && is_client) return "";
  if (failed) return relay->ReadServer(buffer, Now());
  return nullptr;
}

void Gate::Loop::HandleRelay(int descriptor, uint32_t events) {
  const auto other = client_of_.find(descriptor);
  const int client = other == client_of_.end() ? descriptor : other->second;
  const auto found = relays_.find(client);
  if (found == relays_.end()) return;  // closed by an earlier event of this round
  Ends& ends = found->second;
  const char* over = MoveRelay(ends.relay.get(), descriptor, events);
  if (over == nullptr && !ends.relay->connected() && ends.relay->guard().greeted()) {
    over = ConnectRelay(&ends);
  }
  if (over != nullptr) return Close(client, over);
  Refresh(&ends);
}

void Gate::Loop::Refresh(Ends* ends) {
  const Relay& relay = *ends->relay;
  Watch(relay.client(), relay.ClientEvents(), &ends->client_events, EPOLL_CTL_MOD);
  if (!relay.connected()) return;
  // A closed end would be reported without end.
  const bool ended = relay.ended_nanos() != 0;
  Watch(relay.server(), relay.ServerEvents(), &ends->server_events,
        ended ? EPOLL_CTL_DEL : EPOLL_CTL_MOD);
}

const char* Gate::Loop::ConnectRelay(Ends* ends) {
  int pair[2];
  const int client = ends->relay->client();
  while (true) {
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0) {
      if (pair[1] < highest_descriptor_) break;
      ::close(pair[0]);
      ::close(pair[1]);
    }
    const std::shared_ptr<Relay> kept = ends->relay;
    if (!MakeRoom() || relays_.count(client) == 0) return "no descriptor is left for it";
  }
  client_of_[pair[0]] = client;
  Watch(pair[0], EPOLLIN, &ends->server_events, EPOLL_CTL_ADD);
  ends->entrance->hand_over(pair[1]);
  return ends->relay->Connect(pair[0]);
}

void Gate::Loop::Close(int client, const char* why) {
  const auto found = relays_.find(client);
  if (found == relays_.end()) return;
  if (*why != '\0') Report(why);
  if (found->second.relay->connected()) client_of_.erase(found->second.relay->server());
  relays_.erase(found);
}

bool Gate::Loop::MakeRoom() { return EvictWaiting() || EvictRelay() || EvictDirect(); }

bool Gate::Loop::EvictWaiting() {
  if (waiting_.empty()) return false;
  auto oldest = waiting_since_.begin();
  for (auto it = oldest; it != waiting_since_.end(); ++it) {
    if (it->second < oldest->second) oldest = it;
  }
  const int descriptor = oldest->first;
  waiting_since_.erase(oldest);
  waiting_.erase(descriptor);
  ::close(descriptor);
  Report("it said nothing and another needed its descriptor");
  return true;
}

bool Gate::Loop::EvictRelay() {
  // How much use a connection is; the least goes. Those heard of just now stay.
  const auto rank = [](const Relay& relay) {
    return std::make_pair(int{relay.guard().greeted()} + int{relay.guard().called()},
                          relay.heard_nanos());
  };
  const Relay* least = nullptr;
  const int64_t now = Now();
  for (const auto& [client, ends] : relays_) {
    const Relay& relay = *ends.relay;
    if (relay.guard().called() && now - relay.heard_nanos() < kBusyNanos) continue;
    if (least == nullptr || rank(relay) < rank(*least)) least = &relay;
  }
  if (least == nullptr) return false;
  Close(least->client(), "it was silent and another needed its descriptor");
  return true;
}

bool Gate::Loop::EvictDirect() {
  Direct* silent = nullptr;
  uint32_t longest = 0;
  for (Direct& direct : direct_) {
    tcp_info info{};
    socklen_t size = sizeof(info);
    if (InodeOf(direct.descriptor) != direct.inode) continue;
    // Fails for a Unix socket: those are of our own user.
    if (::getsockopt(direct.descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) continue;
    if (info.tcpi_last_data_recv * kNanosPerMilli < kBusyNanos) continue;
    if (info.tcpi_last_data_recv < longest) continue;
    longest = info.tcpi_last_data_recv;
    silent = &direct;
  }
  if (silent == nullptr) return false;
  // gRPC sees the end and closes it, a moment later: this one still has to go elsewhere.
  ::shutdown(silent->descriptor, SHUT_RDWR);
  silent->inode = 0;  // not again
  Report("it was silent and another needed its descriptor");
  return true;
}

void Gate::Loop::Sweep() {
  const int64_t now = Now();
  direct_.remove_if([](const Direct& d) { return InodeOf(d.descriptor) != d.inode; });
  std::vector<int> late;
  for (const auto& [client, ends] : relays_) {
    const int64_t since = ends.relay->guard().owing_since_nanos();
    const int64_t ended = ends.relay->ended_nanos();
    if ((since != 0 && now - since > kOwingNanos) || (ended != 0 && now - ended > kOwingNanos)) {
      late.push_back(client);
    }
  }
  for (const int client : late)
    Close(client, "it was too slow to greet, to send headers or to read");
  for (auto it = waiting_since_.begin(); it != waiting_since_.end();) {
    if (now - it->second <= kOwingNanos) {
      ++it;
      continue;
    }
    waiting_.erase(it->first);
    ::close(it->first);
    it = waiting_since_.erase(it);
  }
  for (Entrance& entrance : entrances_) Listen(&entrance, true);
}

// One line a second at most: a flood of connections must not become one of log lines.
void Gate::Loop::Report(const char* why) {
  ++unreported_;
  const int64_t now = Now();
  if (reported_at_ != 0 && now - reported_at_ < kLogEveryNanos) return;
  NIBBLE_LOG(kWarning, absl::StrCat("closed a connection: ", why,
                                    unreported_ == 1 ? std::string()
                                                     : absl::StrCat(" (and ", unreported_ - 1,
                                                                    " more since the last line)")));
  reported_at_ = now;
  unreported_ = 0;
}

absl::StatusOr<std::unique_ptr<Gate>> Gate::Start(const Clock* clock, int descriptor_limit) {
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) return ErrnoStatus(errno, "epoll_create1", "the gate");
  const int wake = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) {
    const int error = errno;
    ::close(epoll);
    return ErrnoStatus(error, "eventfd", "the gate");
  }
  return std::unique_ptr<Gate>(
      new Gate(std::make_unique<Loop>(clock, descriptor_limit, epoll, wake)));
}

Gate::Gate(std::unique_ptr<Loop> loop)
    : loop_(std::move(loop)), thread_([loop = loop_.get()] { loop->Run(); }) {}

Gate::~Gate() { Stop(); }

void Gate::Open(const std::vector<int>& listening, Passage passage, HandOver hand_over) {
  loop_->Ask([loop = loop_.get(), listening, passage, hand_over = std::move(hand_over)] {
    loop->Open(listening, passage, hand_over);
  });
}

void Gate::StopAccepting() {
  loop_->Ask([loop = loop_.get()] { loop->StopAccepting(); });
}

void Gate::Stop() {
  if (!thread_.joinable()) return;
  loop_->Ask([loop = loop_.get()] { loop->Stop(); });
  thread_.join();
  loop_.reset();
}

}  // namespace nibble::rpc
