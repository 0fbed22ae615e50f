// The keeper of the local worker, with a shell script in the worker's place.
#include "server/local_worker.h"

#include <signal.h>
#include <sys/stat.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::daemon {
namespace {

using ::testing::HasSubstr;

// Locks as nibble-worker does and notes each start.
constexpr char kScript[] = R"(#!/bin/bash
while [ $# -gt 0 ]; do [ "$1" = --work-dir ] && dir=$2; shift; done
exec 9<>"$dir/lock"
flock -n 9 || exit 4
echo $$ > "$dir/lock"
echo $$ >> "$dir/starts"
[ -e "$dir/stubborn" ] && trap '' TERM
while :; do read -t 0.05 <> <(:); done
)";

class LocalWorkerTest : public ::testing::Test {
 protected:
  LocalWorkerTest() : directory_(*TemporaryDirectory::Make()) {
    options_.program = directory_.path() + "/worker.sh";
    options_.daemon_address = "unix:/nowhere";
    options_.work_directory = directory_.path() + "/work";
    options_.log_level = "info";
    EXPECT_THAT(WriteFileDurably(options_.program, kScript), IsOk());
    ::chmod(options_.program.c_str(), 0755);
  }
  ~LocalWorkerTest() override {
    for (const int pid : Starts()) ::kill(pid, SIGKILL);
  }

  std::vector<int> Starts() const {
    std::vector<int> pids;
    const auto text = ReadFile(options_.work_directory + "/starts", 1 << 20);
    if (!text.ok()) return pids;
    for (const auto line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
      int pid = 0;
      if (absl::SimpleAtoi(line, &pid)) pids.push_back(pid);
    }
    return pids;
  }
  bool AwaitStarts(size_t count) const {
    for (int i = 0; i < 600; ++i) {
      if (Starts().size() >= count) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }

  TemporaryDirectory directory_;
  LocalWorkerOptions options_;
};

TEST_F(LocalWorkerTest, StartsOneAndAgainWhenItDies) {
  ASSERT_OK_AND_ASSIGN(auto worker, LocalWorker::Start(options_));
  ASSERT_TRUE(AwaitStarts(1));
  ::kill(Starts()[0], SIGKILL);
  ASSERT_TRUE(AwaitStarts(2));
  worker->StopRestarting();
}

TEST_F(LocalWorkerTest, FindsTheWorkerOfAnEarlierDaemon) {
  ASSERT_OK_AND_ASSIGN(auto first, LocalWorker::Start(options_));
  ASSERT_TRUE(AwaitStarts(1));
  first.reset();  // the daemon is gone, the worker is not
  EXPECT_EQ(::kill(Starts()[0], 0), 0);
  ASSERT_OK_AND_ASSIGN(auto second, LocalWorker::Start(options_));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_EQ(Starts().size(), 1u);
  ::kill(Starts()[0], SIGKILL);
  ASSERT_TRUE(AwaitStarts(2));
  second->StopRestarting();
}

TEST_F(LocalWorkerTest, EndsAWorkerThatDoesNotExitByItself) {
  ASSERT_THAT(MakeDirectories(options_.work_directory), IsOk());
  ASSERT_THAT(WriteFileDurably(options_.work_directory + "/stubborn", ""), IsOk());
  ASSERT_OK_AND_ASSIGN(auto worker, LocalWorker::Start(options_));
  ASSERT_TRUE(AwaitStarts(1));
  worker->StopRestarting();
  worker->WaitForExit(400'000'000);
  EXPECT_NE(::kill(Starts()[0], 0), 0);
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(LocalWorkerTest, SaysWhichProgramIsMissing) {
  options_.program = "/no/such/nibble-worker";
  EXPECT_THAT(LocalWorker::Start(options_).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/nibble-worker")));
}

}  // namespace
}  // namespace nibble::daemon
