// Stands in for nibble-trainer in tests of process handling: does what the job's name says.
//   steps       three steps, a checkpoint, success
//   hang        prints its process id, ignores SIGTERM, never ends
//   wait        ends on SIGTERM
//   segfault    dies of SIGSEGV after a step
//   exit        prints a line and exits with code 3, without a report
//   grandchild  leaves behind a process that holds its output and its group, and exits
//   garbage     sends a frame of 4 GiB
//   flood       sends 20,000 rows as fast as it can, then succeeds
//   print       prints awkward lines
//   descriptors prints its open descriptors and its current directory

#include <dirent.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "nibble/v1/trainer_link.pb.h"
#include "worker/link/frame.h"

namespace {

using nibble::v1::TrainerCommand;
using nibble::v1::TrainerReport;

int link_fd = -1;

void Send(const TrainerReport& report) {
  if (!nibble::link::WriteFrame(link_fd, report).ok()) exit(9);
}

void SendStarted() {
  TrainerReport report;
  report.mutable_started()->set_backend("scripted");
  Send(report);
}

void SendRow(int64_t sequence) {
  TrainerReport report;
  report.mutable_metrics()->set_sequence(sequence);
  report.mutable_metrics()->set_step(sequence);
  (*report.mutable_metrics()->mutable_values())["loss"] = 1.0;
  Send(report);
}

void SendSucceeded(int64_t steps) {
  TrainerReport report;
  report.mutable_succeeded()->mutable_result()->set_steps(steps);
  Send(report);
}

void RunSteps(const std::string& output_directory) {
  SendStarted();
  for (int64_t step = 1; step <= 3; ++step) SendRow(step);
  TrainerReport report;
  report.mutable_checkpoint()->set_step(3);
  report.mutable_checkpoint()->set_path(output_directory + "/step-3");
  report.mutable_checkpoint()->set_metric_sequence(3);
  Send(report);
  TrainerCommand command;
  const auto read = nibble::link::ReadFrame(link_fd, &command);
  if (!read.ok() || !*read || command.checkpoint_committed().step() != 3) exit(8);
  SendSucceeded(3);
}

[[noreturn]] void Sleep() {
  while (true) pause();
}

[[noreturn]] void Hang() {
  signal(SIGTERM, SIG_IGN);
  SendStarted();
  printf("pid %d\n", getpid());
  fflush(stdout);
  Sleep();
}

void LeaveGrandchild() {
  const pid_t child = fork();
  if (child == 0) Sleep();
  printf("pid %d\n", child);
  fflush(stdout);
}

void PrintAwkwardLines() {
  const char lines[] = "escape \x1b[31m\nbad utf8 \xff\xfe\nwindows\r\n\nno line end";
  if (write(STDERR_FILENO, lines, sizeof(lines) - 1) < 0) exit(9);
}

void PrintDescriptors() {
  DIR* directory = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(directory)) {
    const int fd = atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != dirfd(directory)) printf("fd %d\n", fd);
  }
  closedir(directory);
  char current[4096];
  printf("in %s\n", getcwd(current, sizeof(current)));
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  // With or without --memory-fd 4.
  if ((argc != 3 && argc != 5) || strcmp(argv[1], "--link-fd") != 0) return 7;
  link_fd = atoi(argv[2]);
  TrainerCommand command;
  const auto read = nibble::link::ReadFrame(link_fd, &command);
  if (!read.ok() || !*read || !command.has_start()) return 6;
  const std::string& name = command.start().spec().name();
  if (name == "steps") RunSteps(command.start().output_directory());
  if (name == "hang") Hang();
  if (name == "wait") {
    SendStarted();
    Sleep();
  }
  if (name == "segfault") {
    const rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    SendStarted();
    SendRow(1);
    signal(SIGSEGV, SIG_DFL);  // not a sanitizer's handler
    raise(SIGSEGV);
  }
  if (name == "exit") {
    fprintf(stderr, "no such thing as a free lunch\n");
    return 3;
  }
  if (name == "grandchild") LeaveGrandchild();
  if (name == "garbage") {
    const char garbage[] = "\xff\xff\xff\xffgarbage";
    if (send(link_fd, garbage, sizeof(garbage), 0) < 0) return 9;
    Sleep();
  }
  if (name == "flood") {
    SendStarted();
    for (int64_t row = 1; row <= 20'000; ++row) SendRow(row);
    SendSucceeded(20'000);
  }
  if (name == "print") PrintAwkwardLines();
  if (name == "descriptors") PrintDescriptors();
  return 0;
}
