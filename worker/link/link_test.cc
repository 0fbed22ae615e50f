// The trainer link: frames against a hostile peer, and a trainer's observer against a worker that
// the test plays over a socket pair.
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/hardware_error.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nibble/v1/trainer_link.pb.h"
#include "worker/link/frame.h"
#include "worker/link/link_observer.h"
#include "worker/link/text.h"

namespace nibble::link {
namespace {

using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::UnorderedElementsAre;

class SocketPair {
 public:
  SocketPair() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds_), 0); }
  ~SocketPair() {
    Close(0);
    Close(1);
  }
  int operator[](int i) const { return fds_[i]; }
  void Close(int i) {
    if (fds_[i] >= 0) close(fds_[i]);
    fds_[i] = -1;
  }
  // Gives the end away.
  int Release(int i) { return std::exchange(fds_[i], -1); }
  void Write(int i, const std::string& bytes) {
    ASSERT_EQ(write(fds_[i], bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }

 private:
  int fds_[2] = {-1, -1};
};

TEST(FrameTest, ManyMessagesAndAnOrderlyEnd) {
  SocketPair sockets;
  v1::TrainerReport report;
  for (int step = 1; step <= 100; ++step) {
    report.mutable_started()->set_step(step);
    ASSERT_THAT(WriteFrame(sockets[0], report), IsOk());
  }
  sockets.Close(0);
  for (int step = 1; step <= 100; ++step) {
    v1::TrainerReport read;
    ASSERT_OK_AND_ASSIGN(const bool got, ReadFrame(sockets[1], &read));
    ASSERT_TRUE(got);
    EXPECT_EQ(read.started().step(), step);
  }
  ASSERT_OK_AND_ASSIGN(const bool got, ReadFrame(sockets[1], &report));
  EXPECT_FALSE(got);
}

TEST(FrameTest, AFrameCrossesInPieces) {
  SocketPair sockets;
  v1::TrainerReport report;
  report.mutable_started()->set_backend(std::string(kMaxFrameBytes - 64, 'x'));
  // More than a socket buffer: written while it is read.
  std::thread writer([&] { EXPECT_THAT(WriteFrame(sockets[0], report), IsOk()); });
  v1::TrainerReport read;
  ASSERT_OK_AND_ASSIGN(const bool got, ReadFrame(sockets[1], &read));
  writer.join();
  EXPECT_TRUE(got);
  EXPECT_EQ(read.started().backend().size(), kMaxFrameBytes - 64);
}

TEST(FrameTest, HostileBytesAreRefused) {
  const struct {
    std::string bytes;
    std::string error;
    absl::StatusCode code = absl::StatusCode::kDataLoss;
  } cases[] = {
      {std::string("\xff\xff\xff\xff", 4), "a frame of 4294967295 bytes"},
      {std::string("\x01\x00\x10\x00", 4), "a frame of 1048577 bytes"},
      {std::string("\x00\x00\x00\x00", 4), "a frame of 0 bytes"},
      {std::string("\x05\x00", 2), "inside a length", absl::StatusCode::kUnavailable},
      {std::string("\x05\x00\x00\x00", 4) + "ab", "after 2 of a frame's 5 bytes",
       absl::StatusCode::kUnavailable},
      {std::string("\x03\x00\x00\x00", 4) + "\xff\xff\xff", "not the expected message"},
  };
  for (const auto& c : cases) {
    SocketPair sockets;
    sockets.Write(0, c.bytes);
    sockets.Close(0);
    v1::TrainerReport report;
    EXPECT_THAT(ReadFrame(sockets[1], &report), StatusIs(c.code, HasSubstr(c.error)));
  }
}

TEST(FrameTest, RefusesToWriteWhatCannotBeRead) {
  SocketPair sockets;
  v1::TrainerReport report;
  EXPECT_THAT(WriteFrame(sockets[0], report), StatusIs(absl::StatusCode::kInvalidArgument));
  report.mutable_started()->set_backend(std::string(kMaxFrameBytes, 'x'));
  EXPECT_THAT(WriteFrame(sockets[0], report), StatusIs(absl::StatusCode::kInvalidArgument));
  sockets.Close(1);
  report.mutable_started()->set_backend("cpu");
  EXPECT_THAT(WriteFrame(sockets[0], report), StatusIs(absl::StatusCode::kUnavailable));
}

TEST(TextTest, IsUtf8WithoutControlCharactersAndBounded) {
  EXPECT_EQ(SafeText("plain\ttext, \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", 100),
            "plain\ttext, \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(SafeText("\x1b[2J\n\x7f", 100), "\\x1b[2J\\x0a\\x7f");
  EXPECT_EQ(SafeText("c1 \xc2\x9b", 100), "c1 \\xc2\\x9b");
  // Overlong, surrogate, beyond Unicode, truncated, a lone continuation.
  for (const char* bad : {"\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    EXPECT_THAT(SafeText(bad, 100), testing::StartsWith("\\x")) << bad;
  }
  EXPECT_EQ(SafeText(std::string(100, 'a'), 20), std::string(17, 'a') + "...");
  EXPECT_EQ(SafeText(std::string(20, 'a'), 20), std::string(20, 'a'));
  EXPECT_EQ(SafeText("aaaaaaaaaaaaaaaa\xf0\x9f\x98\x80 and more", 20), "aaaaaaaaaaaaaaaa...");
}

TEST(FailureClassTest, TellsWhoseFaultItIs) {
  EXPECT_EQ(FailureClassOf(absl::InvalidArgumentError("")), v1::USER);
  EXPECT_EQ(FailureClassOf(absl::NotFoundError("")), v1::DATA);
  EXPECT_EQ(FailureClassOf(absl::DataLossError("")), v1::DATA);
  EXPECT_EQ(FailureClassOf(absl::OutOfRangeError("")), v1::NUMERIC);
  absl::Status flaky = absl::InternalError("");
  flaky.SetPayload(trainer::kHardwareFault, absl::Cord());
  EXPECT_EQ(FailureClassOf(flaky), v1::HARDWARE);
  EXPECT_EQ(FailureClassOf(absl::ResourceExhaustedError("")), v1::OUT_OF_MEMORY);
  EXPECT_EQ(FailureClassOf(absl::UnavailableError("")), v1::NETWORK);
  EXPECT_EQ(FailureClassOf(HardwareError("cudaStreamSynchronize")), v1::HARDWARE);
  EXPECT_EQ(FailureClassOf(absl::InternalError("")), v1::CONTROL);
  EXPECT_EQ(FailureClassOf(absl::AbortedError("")), v1::CONTROL);
}

// The test is the worker, at sockets_[0].
class LinkObserverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(observer_, LinkObserver::Connect(sockets_.Release(1), clock_));
  }
  void SendStart() {
    v1::TrainerCommand command;
    command.mutable_start()->mutable_key()->set_job_id("j-1");
    command.mutable_start()->mutable_spec()->mutable_resources()->set_backend("cpu");
    ASSERT_THAT(WriteFrame(sockets_[0], command), IsOk());
    ASSERT_OK_AND_ASSIGN(const v1::StartTraining start, observer_->WaitForStart());
    EXPECT_EQ(start.key().job_id(), "j-1");
  }
  void SendCommitted(int64_t step) {
    v1::TrainerCommand command;
    command.mutable_checkpoint_committed()->set_step(step);
    ASSERT_THAT(WriteFrame(sockets_[0], command), IsOk());
  }
  v1::TrainerReport Receive() {
    v1::TrainerReport report;
    EXPECT_TRUE(ReadFrame(sockets_[0], &report).value_or(false));
    return report;
  }
  static trainer::CheckpointReport Checkpoint(int64_t step) {
    trainer::CheckpointReport report;
    report.step = step;
    return report;
  }
  // The first status that is not OK, which comes once the reader thread has seen the end.
  absl::Status StepUntilError() {
    trainer::StepReport step;
    absl::Status status;
    while (status.ok()) {
      step.step++;
      status = observer_->OnStep(step);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return status;
  }

  FakeClock clock_;
  SocketPair sockets_;
  std::unique_ptr<LinkObserver> observer_;
};

TEST_F(LinkObserverTest, TellsARunsStory) {
  SendStart();
  ASSERT_THAT(observer_->OnStarted(40), IsOk());
  v1::TrainerReport report = Receive();
  EXPECT_EQ(report.started().step(), 40);
  EXPECT_EQ(report.started().backend(), "cpu");

  trainer::StepReport step;
  step.step = 41;
  step.tokens = 4100;
  step.loss = 2.5;
  step.learning_rate = 1e-3;
  step.grad_norm = std::numeric_limits<double>::infinity();
  step.step_seconds = 0.5;
  ASSERT_THAT(observer_->OnStep(step), IsOk());
  report = Receive();
  EXPECT_EQ(report.metrics().sequence(), 1);
  EXPECT_EQ(report.metrics().step(), 41);
  EXPECT_EQ(report.metrics().time().seconds(), clock_.WallMicros() / 1'000'000);
  EXPECT_THAT(report.metrics().values(),
              UnorderedElementsAre(Key("loss"), Key("learning_rate"), Key("step_seconds"),
                                   Key("tokens"), Key("tokens_per_second")))
      << "what is not finite is left out";
  EXPECT_EQ(report.metrics().values().at("tokens_per_second"), 200);

  step.has_validation = true;
  step.validation_bits_per_byte = 2.25;
  ASSERT_THAT(observer_->OnStep(step), IsOk());
  report = Receive();
  EXPECT_EQ(report.metrics().sequence(), 2);
  EXPECT_EQ(report.metrics().values().at("validation_bits_per_byte"), 2.25);

  ASSERT_THAT(observer_->OnCheckpoint(Checkpoint(42), /*must_commit=*/false), IsOk());
  report = Receive();
  EXPECT_EQ(report.checkpoint().step(), 42);
  EXPECT_EQ(report.checkpoint().metric_sequence(), 2);

  trainer::RunResult result;
  result.steps = 42;
  result.digest = "abc";
  EXPECT_THAT(observer_->Finish(result), IsOk());
  report = Receive();
  EXPECT_EQ(report.succeeded().result().steps(), 42);
  EXPECT_EQ(report.succeeded().result().digest(), "abc");
}

TEST_F(LinkObserverTest, TheLastCheckpointWaitsForItsCommit) {
  SendStart();
  std::atomic<bool> committed{false};
  std::thread worker([&] {
    EXPECT_EQ(Receive().checkpoint().step(), 7);
    SendCommitted(6);  // an earlier one: not what it waits for
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    committed = true;
    SendCommitted(7);
  });
  EXPECT_THAT(observer_->OnCheckpoint(Checkpoint(7), /*must_commit=*/true), IsOk());
  EXPECT_TRUE(committed);
  worker.join();
}

TEST_F(LinkObserverTest, ARefusedCheckpointEndsTheRun) {
  SendStart();
  v1::TrainerCommand command;
  command.mutable_checkpoint_refused()->set_step(7);
  command.mutable_checkpoint_refused()->set_message("stale");
  ASSERT_THAT(WriteFrame(sockets_[0], command), IsOk());
  EXPECT_THAT(observer_->OnCheckpoint(Checkpoint(7), /*must_commit=*/true),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("stale")));
  EXPECT_THAT(StepUntilError(), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(LinkObserverTest, PausesWhenTold) {
  SendStart();
  EXPECT_FALSE(observer_->PauseRequested());
  v1::TrainerCommand command;
  command.mutable_pause();
  ASSERT_THAT(WriteFrame(sockets_[0], command), IsOk());
  while (!observer_->PauseRequested()) std::this_thread::yield();
  trainer::RunResult result;
  result.paused = true;
  result.steps = 9;
  EXPECT_THAT(observer_->Finish(result), IsOk());
  EXPECT_EQ(Receive().paused().step(), 9);
}

TEST_F(LinkObserverTest, NoTrainerOutlivesItsWorker) {
  SendStart();
  std::thread worker([&] {
    Receive();
    sockets_.Close(0);
  });
  EXPECT_THAT(observer_->OnCheckpoint(Checkpoint(7), /*must_commit=*/true),
              StatusIs(absl::StatusCode::kAborted));
  worker.join();
  EXPECT_THAT(StepUntilError(), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(observer_->Finish(trainer::RunResult()), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(LinkObserverTest, AWorkerThatSpeaksNonsenseIsNoWorker) {
  SendStart();
  sockets_.Write(0, std::string("\xff\xff\xff\xff", 4));
  EXPECT_THAT(StepUntilError(), StatusIs(absl::StatusCode::kAborted, HasSubstr("4294967295")));
}

TEST_F(LinkObserverTest, TheFirstCommandMustBeTheStart) {
  SendCommitted(1);
  EXPECT_THAT(observer_->WaitForStart(), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(LinkObserverTest, AWorkerThatLeavesBeforeTheStart) {
  sockets_.Close(0);
  EXPECT_THAT(observer_->WaitForStart(), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(LinkObserverTest, AFailureCarriesClassAndHarmlessMessage) {
  SendStart();
  EXPECT_THAT(observer_->Finish(absl::DataLossError("shard \xff\x1b is damaged")),
              StatusIs(absl::StatusCode::kDataLoss));
  const v1::TrainerReport report = Receive();
  EXPECT_EQ(report.failed().failure_class(), v1::DATA);
  EXPECT_EQ(report.failed().message(), "shard \\xff\\x1b is damaged");
}

TEST(LinkObserverConnectTest, RefusesWhatIsNoSocket) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_THAT(LinkObserver::Connect(ends[0]), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(LinkObserver::Connect(-1), StatusIs(absl::StatusCode::kInvalidArgument));
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace nibble::link
