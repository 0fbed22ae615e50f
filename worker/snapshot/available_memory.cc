#include <stdio.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "worker/snapshot/trainer_memory.h"

namespace nibble::snapshot {
namespace {

// Files of /proc and /sys/fs/cgroup have no size, so base/files.h does not read them. Empty where
// there is no such file.
std::string ReadSmall(const std::string& path) {
  FILE* const file = fopen(path.c_str(), "re");
  if (file == nullptr) return "";
  char buffer[8192];
  const size_t size = fread(buffer, 1, sizeof(buffer), file);
  fclose(file);
  return std::string(buffer, size);
}

// The number at the start of `text`; -1 where there is none, as in "max".
int64_t Number(absl::string_view text) {
  const absl::string_view digits = text.substr(0, text.find_first_not_of("0123456789"));
  int64_t value = 0;
  return absl::SimpleAtoi(digits, &value) ? value : -1;
}

int64_t MachineAvailable() {
  for (absl::string_view line : absl::StrSplit(ReadSmall("/proc/meminfo"), '\n')) {
    if (!absl::ConsumePrefix(&line, "MemAvailable:")) continue;
    const int64_t kib = Number(absl::StripLeadingAsciiWhitespace(line));
    if (kib >= 0) return kib * 1024;
  }
  return std::numeric_limits<int64_t>::max();
}

int64_t StatOf(const std::string& directory, absl::string_view name) {
  for (absl::string_view line :
       absl::StrSplit(ReadSmall(absl::StrCat(directory, "/memory.stat")), '\n')) {
    if (absl::ConsumePrefix(&line, absl::StrCat(name, " "))) {
      return std::max<int64_t>(Number(line), 0);
    }
  }
  return 0;
}

}  // namespace

int64_t AvailableMemoryBytes() {
  int64_t available = MachineAvailable();
  // Version 2: "0::/path"; limits of all groups above hold as well.
  for (absl::string_view line : absl::StrSplit(ReadSmall("/proc/self/cgroup"), '\n')) {
    if (!absl::ConsumePrefix(&line, "0::")) continue;
    std::string path(line);
    while (true) {
      const std::string directory = absl::StrCat("/sys/fs/cgroup", path == "/" ? "" : path);
      const int64_t most = Number(ReadSmall(absl::StrCat(directory, "/memory.max")));
      const int64_t used = Number(ReadSmall(absl::StrCat(directory, "/memory.current")));
      // Cached files are given up where memory is asked for.
      if (most >= 0 && used >= 0) {
        available = std::min(available, most - used + StatOf(directory, "inactive_file"));
      }
      if (path.empty() || path == "/") break;
      path.resize(path.rfind('/'));
    }
  }
  return std::max<int64_t>(available, 0);
}

}  // namespace nibble::snapshot
