// What the command line's tests share: a fake daemon, a fixed clock, and command lines run in this
// process with captured output.
#ifndef CLIENT_CLIENT_TESTING_H_
#define CLIENT_CLIENT_TESTING_H_

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/files.h"
#include "client/command_line.h"
#include "client/fake_daemon.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::client {

struct Outcome {
  int code = 0;
  std::string out;
  std::string err;
};

// FakeClock starts at 2023-11-14T22:13:20Z.
inline constexpr int64_t kNowSeconds = 1'700'000'000;

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() : directory_(TemporaryDirectory::Make().value()) {
    // The developer's own configuration stays out of it.
    setenv("XDG_CONFIG_HOME", directory_.path().c_str(), 1);
    setenv("NIBBLE_DATA_DIR", (directory_.path() + "/data").c_str(), 1);
    unsetenv("NIBBLE_SERVER");
  }

  // Runs `nibble ARGUMENTS --server <the fake daemon>`.
  Outcome Run(std::vector<std::string> arguments, const std::string& input = "") {
    arguments.insert(arguments.end(), {"--server", daemon_.address()});
    return RunAlone(arguments, input);
  }

  // Without --server.
  Outcome RunAlone(const std::vector<std::string>& arguments, const std::string& input = "") {
    std::ostringstream out, err;
    std::istringstream in(input);
    Terminal terminal = terminal_;
    terminal.out = &out;
    terminal.err = &err;
    terminal.in = &in;
    Outcome outcome;
    outcome.code = RunCommandLine(arguments, terminal, clock_);
    outcome.out = out.str();
    outcome.err = err.str();
    return outcome;
  }

  std::string WriteFile(const std::string& name, const std::string& contents) {
    const std::string path = directory_.path() + "/" + name;
    EXPECT_TRUE(ReplaceFileDurably(path, contents).ok());
    return path;
  }

  // A job of 100 steps, created a minute ago.
  static v1::Job MakeJob(int number, const std::string& name, v1::JobState state) {
    v1::Job job;
    job.set_job_id(absl::StrCat("j-aaaaaaaaaaaaaaa", number));
    job.mutable_spec()->set_name(name);
    job.mutable_spec()->mutable_precision()->set_recipe("nvfp4");
    job.set_state(state);
    job.set_reason(v1::TRAINER_STARTED);
    job.set_attempt(1);
    job.set_step(25);
    job.set_total_steps(100);
    job.set_parameters(1'900'000);
    job.mutable_create_time()->set_seconds(kNowSeconds - 60);
    return job;
  }

  static v1::Job Succeeded(v1::Job job, double validation_loss = 1.5) {
    job.set_state(v1::SUCCEEDED);
    job.set_reason(v1::COMPLETED);
    job.set_step(100);
    v1::TrainingResult& result = *job.mutable_result();
    result.set_steps(100);
    result.set_tokens(102'400);
    result.set_train_loss(1.25);
    result.set_validation_loss(validation_loss);
    result.set_validation_bits_per_byte(validation_loss / 0.6931471805599453);
    result.set_tokens_per_second(25'123);
    result.set_digest("d1ge57");
    return job;
  }

  static v1::MetricRow MakeRow(int64_t step, double loss) {
    v1::MetricRow row;
    row.set_step(step);
    row.set_attempt(1);
    row.mutable_time()->set_seconds(kNowSeconds + step);
    (*row.mutable_values())["loss"] = loss;
    (*row.mutable_values())["tokens"] = static_cast<double>(step) * 1024;
    (*row.mutable_values())["step_seconds"] = 0.5;
    (*row.mutable_values())["tokens_per_second"] = 2048;
    return row;
  }

  static v1::MetricRow WithValidation(v1::MetricRow row, double loss) {
    (*row.mutable_values())["validation_loss"] = loss;
    (*row.mutable_values())["validation_bits_per_byte"] = loss / 0.6931471805599453;
    return row;
  }

  TemporaryDirectory directory_;
  FakeDaemon daemon_;
  FakeClock clock_;
  Terminal terminal_;  // a pipe, unless a test says otherwise
};

}  // namespace nibble::client

#endif  // CLIENT_CLIENT_TESTING_H_
