#include "worker/agent/process_state.h"

#include <dirent.h>
#include <stdio.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace nibble::agent {
namespace {

constexpr size_t kMaxThreads = 256;

std::string ReadProc(const std::string& path) {
  FILE* const file = fopen(path.c_str(), "re");
  if (file == nullptr) return "";
  char buffer[4096];
  const size_t size = fread(buffer, 1, sizeof(buffer), file);
  fclose(file);
  return std::string(absl::StripTrailingAsciiWhitespace(absl::string_view(buffer, size)));
}

const char* StateName(char state) {
  switch (state) {
    case 'R':
      return "running";
    case 'S':
      return "sleeping";
    case 'D':
      return "waiting for a device";
    case 'T':
    case 't':
      return "stopped";
    case 'Z':
    case 'X':
      return "dead";
    default:
      return "in an unknown state";
  }
}

// The letter after the name in parentheses, which may itself hold parentheses.
char StateOf(const std::string& stat) {
  const size_t end = stat.rfind(')');
  return end == std::string::npos || end + 2 >= stat.size() ? '?' : stat[end + 2];
}

bool Handles(const std::string& status, int signal) {
  for (absl::string_view line : absl::StrSplit(status, '\n')) {
    if (!absl::ConsumePrefix(&line, "SigCgt:")) continue;
    const uint64_t mask = strtoull(std::string(line).c_str(), nullptr, 16);
    return (mask >> (signal - 1)) & 1;
  }
  return false;
}

}  // namespace

ProcessState ReadProcessState(pid_t pid, int signal) {
  ProcessState state;
  const std::string root = absl::StrCat("/proc/", pid);
  state.handles_signal = Handles(ReadProc(absl::StrCat(root, "/status")), signal);
  DIR* const tasks = opendir(absl::StrCat(root, "/task").c_str());
  if (tasks == nullptr) return state;
  while (const dirent* const entry = readdir(tasks)) {
    if (entry->d_name[0] == '.' || state.threads.size() >= kMaxThreads) continue;
    const std::string task = absl::StrCat(root, "/task/", entry->d_name);
    const char letter = StateOf(ReadProc(absl::StrCat(task, "/stat")));
    if (letter == 'T' || letter == 't') state.stopped = true;
    const std::string place = ReadProc(absl::StrCat(task, "/wchan"));
    state.threads.push_back(absl::StrCat(
        "thread ", entry->d_name, " (", ReadProc(absl::StrCat(task, "/comm")), "): ",
        StateName(letter), place.empty() || place == "0" ? "" : absl::StrCat(" in ", place)));
  }
  closedir(tasks);
  return state;
}

}  // namespace nibble::agent
