// What a client may send, frame by frame, whatever pieces it comes in. Seen red with header blocks
// of any size.
#include "server/rpc/frame_guard.h"

#include <string>

#include "gtest/gtest.h"

namespace nibble::rpc {
namespace {

const std::string kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr int64_t kSecond = 1'000'000'000;
enum Type { kData, kHeaders, kPriority, kReset, kSettings, kPush, kPing, kGoAway, kWindow, kMore };

std::string Frame(Type type, size_t length, int flags = 0) {
  std::string frame = {static_cast<char>(length >> 16),
                       static_cast<char>(length >> 8),
                       static_cast<char>(length),
                       static_cast<char>(type),
                       static_cast<char>(flags),
                       0,
                       0,
                       0,
                       1};
  return frame + std::string(length, 'x');
}

std::string Repeat(const std::string& what, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += what;
  return all;
}

// What is wrong with `bytes` after a greeting, in pieces of `piece` bytes; "" for nothing.
std::string Fault(const std::string& bytes, size_t piece = 1 << 20) {
  FrameGuard guard(0);
  const std::string all = kPreface + Frame(kSettings, 6) + bytes;
  for (size_t at = 0; at < all.size(); at += piece) {
    const char* fault = guard.FromClient(absl::string_view(all).substr(at, piece), 0);
    if (fault != nullptr) return fault;
  }
  return "";
}

TEST(FrameGuardTest, LetsProperCallsThrough) {
  const std::string call = Frame(kHeaders, 300, 4) + Frame(kData, 16384) + Frame(kWindow, 4);
  const std::string split = Frame(kHeaders, 16384) + Frame(kMore, 300, 4) + Frame(kData, 0, 1);
  for (const size_t piece : {1, 7, 1 << 20}) {
    EXPECT_EQ(Fault(Repeat(call + split, 20), piece), "");
  }
  EXPECT_EQ(Fault(Frame(kData, 4 << 20)), "") << "gRPC sends messages in one frame";
  EXPECT_EQ(Fault(Repeat(Frame(kHeaders, 50, 4) + Frame(kReset, 4), 4000)), "")
      << "a client may cancel thousands of calls";
}

TEST(FrameGuardTest, RefusesHeadersWithoutEnd) {
  EXPECT_NE(Fault(Frame(kHeaders, 33 << 10, 4)), "");
  EXPECT_NE(Fault(Frame(kHeaders, 16384) + Repeat(Frame(kMore, 16384), 2), 1), "");
  EXPECT_NE(Fault(Frame(kHeaders, 10) + Repeat(Frame(kMore, 0), 20)), "");
  EXPECT_NE(Fault(Frame(kHeaders, 10) + Frame(kData, 1)), "") << "a frame inside a block";
  EXPECT_NE(Fault(Frame(kMore, 10, 4)), "") << "of nothing";
}

TEST(FrameGuardTest, RefusesFloodsButForgetsOldOnes) {
  for (const Type type : {kPriority, kReset, kSettings, kPing, kGoAway}) {
    EXPECT_NE(Fault(Repeat(Frame(type, 8), 9000), 4096), "") << type;
  }
  EXPECT_NE(Fault(Repeat(Frame(kData, 0), 250'000), 65536), "");
  FrameGuard patient(0);
  patient.FromClient(kPreface, 0);
  for (int second = 0; second < 200; ++second) {
    ASSERT_EQ(patient.FromClient(Repeat(Frame(kPing, 8), 190), second * kSecond), nullptr);
  }
  FrameGuard refused(0);
  refused.FromClient(kPreface, 0);
  EXPECT_EQ(refused.FromServer(Repeat(Frame(kReset, 4), 8000), 0), nullptr);
  EXPECT_NE(refused.FromServer(Repeat(Frame(kReset, 4), 1000), 0), nullptr)
      << "streams beyond the limit are the client's doing";
}

TEST(FrameGuardTest, RefusesWhatIsNotHttp2) {
  FrameGuard guard(0);
  EXPECT_NE(guard.FromClient("GET / HTTP/1.1\r\n", 0), nullptr);
  EXPECT_NE(Fault(Frame(kSettings, 5000)), "");
  EXPECT_NE(Fault(Frame(kPush, 10)), "");
}

TEST(FrameGuardTest, KnowsWhatTheClientOwes) {
  FrameGuard guard(5);
  EXPECT_EQ(guard.owing_since_nanos(), 5);
  guard.FromClient(kPreface.substr(0, 20), 7);
  EXPECT_FALSE(guard.greeted());
  EXPECT_EQ(guard.owing_since_nanos(), 5) << "a drip does not buy time";
  guard.FromClient(kPreface.substr(20), 8);
  EXPECT_TRUE(guard.greeted());
  EXPECT_EQ(guard.owing_since_nanos(), 0);
  guard.FromClient(Frame(kHeaders, 10), 20);
  EXPECT_TRUE(guard.called());
  guard.FromClient(Frame(kMore, 0), 30);
  EXPECT_EQ(guard.owing_since_nanos(), 20);
  guard.FromClient(Frame(kMore, 5, 4), 40);
  EXPECT_EQ(guard.owing_since_nanos(), 0);
  guard.FromClient(Frame(kPing, 8).substr(0, 12), 50);
  EXPECT_EQ(guard.owing_since_nanos(), 50);
  guard.FromClient(std::string(5, 'x') + Frame(kData, 100).substr(0, 50), 60);
  EXPECT_EQ(guard.owing_since_nanos(), 0) << "data is paced by flow control";
}

}  // namespace
}  // namespace nibble::rpc
