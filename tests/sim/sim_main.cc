// nibble_sim: runs the simulator. See docs/simulation.md.
//
//   nibble_sim [--first N] [--seeds N] [--plant BUG] [--processes N]   many seeds
//   nibble_sim --seed N [--plant BUG] [--trace]                        one, again
//   nibble_sim --planted [--processes N]                               every planted bug must be
//   found
//
// Exit codes: 0 no violation, 127 crash, 128 liveness, 129 safety, 2 usage; with --planted 1 where
// a bug was not found. The last line is the command that repeats what was found.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/log.h"
#include "tests/sim/planted_bugs.h"
#include "tests/sim/simulation.h"

namespace nibble::sim {
namespace {

constexpr int kExitUsage = 2;
constexpr int kExitCrash = 127;
constexpr int kExitLiveness = 128;
constexpr int kExitSafety = 129;

struct Flags {
  int64_t first = 1;
  int64_t seeds = 100;
  int64_t seed = -1;
  std::string plant;
  int64_t processes = 2;
  bool trace = false;
  bool planted = false;
};

// What a range of seeds came to.
struct Outcome {
  int64_t seed = -1;  // the first with a violation; -1 for none
  int code = 0;
  std::string what;
  int64_t runs = 0;
  std::map<std::string, std::pair<int64_t, int64_t>> reached;  // times, seeds
};

int CodeOf(Violation violation) {
  if (violation == Violation::kNone) return 0;
  return violation == Violation::kLiveness ? kExitLiveness : kExitSafety;
}

// In a process of its own. Each line is flushed, so that a crash tells its seed.
void RunInChild(const std::string& path, int64_t first, int64_t last, int64_t stride) {
  std::ofstream out(path);
  Outcome sums;
  for (int64_t seed = first; seed <= last; seed += stride) {
    out << "start\t" << seed << std::endl;
    const Result result = Simulation(static_cast<uint64_t>(seed), /*trace=*/false).Run();
    out << "end\t" << seed << "\t" << CodeOf(result.violation) << "\t" << result.what << std::endl;
    for (const auto& [branch, times] : result.reached) {
      sums.reached[branch].first += times;
      ++sums.reached[branch].second;
    }
    if (result.violation != Violation::kNone) break;
  }
  for (const auto& [branch, counts] : sums.reached) {
    out << "reached\t" << counts.first << "\t" << counts.second << "\t" << branch << std::endl;
  }
}

void Read(const std::string& path, bool crashed, Outcome* outcome) {
  std::ifstream in(path);
  std::string line;
  int64_t open = -1;
  const auto found = [outcome](int64_t seed, int code, std::string what) {
    if (outcome->seed >= 0 && outcome->seed < seed) return;
    outcome->seed = seed;
    outcome->code = code;
    outcome->what = std::move(what);
  };
  while (std::getline(in, line)) {
    const std::vector<std::string> parts = absl::StrSplit(line, '\t');
    if (parts[0] == "start") open = std::atoll(parts[1].c_str());
    if (parts[0] == "end") {
      ++outcome->runs;
      open = -1;
      const int code = std::atoi(parts[2].c_str());
      if (code != 0) found(std::atoll(parts[1].c_str()), code, parts[3]);
    }
    if (parts[0] == "reached") {
      auto& counts = outcome->reached[parts[3]];
      counts.first += std::atoll(parts[1].c_str());
      counts.second += std::atoll(parts[2].c_str());
    }
  }
  if (crashed && open >= 0) found(open, kExitCrash, "the process crashed");
}

Outcome RunSeeds(const Flags& flags, int64_t first, int64_t seeds) {
  const auto directory = TemporaryDirectory::Make();
  std::vector<pid_t> children;
  std::cout.flush();
  for (int64_t i = 0; i < flags.processes; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      RunInChild(absl::StrCat(directory->path(), "/", i), first + i, first + seeds - 1,
                 flags.processes);
      std::_Exit(0);
    }
    children.push_back(child);
  }
  Outcome outcome;
  for (size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    waitpid(children[i], &status, 0);
    Read(absl::StrCat(directory->path(), "/", i), !WIFEXITED(status) || WEXITSTATUS(status) != 0,
         &outcome);
  }
  return outcome;
}

std::string Repeat(const std::string& program, int64_t seed, const std::string& plant) {
  return absl::StrCat(program, " --seed ", seed, plant.empty() ? "" : " --plant ", plant,
                      " --trace");
}

int RunMany(const std::string& program, const Flags& flags) {
  const Outcome outcome = RunSeeds(flags, flags.first, flags.seeds);
  std::printf("%10s %10s  %s\n", "times", "seeds", "branch");
  for (const auto& [branch, counts] : outcome.reached) {
    std::printf("%10lld %10lld  %s\n", static_cast<long long>(counts.first),
                static_cast<long long>(counts.second), branch.c_str());
  }
  if (outcome.seed < 0) {
    std::printf("%lld seeds, no violation\n", static_cast<long long>(outcome.runs));
    return 0;
  }
  std::printf("seed %lld: %s\n%s\n", static_cast<long long>(outcome.seed), outcome.what.c_str(),
              Repeat(program, outcome.seed, flags.plant).c_str());
  return outcome.code;
}

int RunOne(const std::string& program, const Flags& flags) {
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    const Result result = Simulation(static_cast<uint64_t>(flags.seed), flags.trace).Run();
    std::printf("%s\n",
                result.violation == Violation::kNone ? "no violation" : result.what.c_str());
    std::fflush(stdout);
    std::_Exit(CodeOf(result.violation));
  }
  int status = 0;
  waitpid(child, &status, 0);
  std::printf("%s\n", Repeat(program, flags.seed, flags.plant).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : kExitCrash;
}

// Finds every planted bug, or says which it did not.
int RunPlanted(const std::string& program, const Flags& flags) {
  int found = 0, missed = 0;
  std::string again;
  for (const PlantedBug& bug : PlantedBugs()) {
    if (!flags.plant.empty() && flags.plant != bug.name) continue;
    Plant(bug.name);
    Outcome outcome;
    // A few at a time, so that one that is found early costs little.
    constexpr int64_t kStep = 16;
    for (int64_t first = 1; first <= bug.seeds && outcome.seed < 0; first += kStep) {
      outcome = RunSeeds(flags, first, std::min<int64_t>(kStep, bug.seeds - first + 1));
    }
    const bool is_found = outcome.seed >= 0;
    ++(is_found ? found : missed);
    std::printf("%-32s %s %5lld  %3d  %s\n", bug.name, is_found ? "seed  " : "MISSED",
                static_cast<long long>(is_found ? outcome.seed : bug.seeds), outcome.code,
                outcome.what.c_str());
    std::fflush(stdout);
    if (!is_found) again = absl::StrCat(program, " --planted --plant ", bug.name);
  }
  std::printf("%d of %d planted bugs found\n", found, found + missed);
  if (!again.empty()) std::printf("%s\n", again.c_str());
  return missed == 0 ? 0 : 1;
}

bool Parse(int argc, char** argv, Flags* flags) {
  const std::map<std::string, int64_t*> numbers = {{"--first", &flags->first},
                                                   {"--seeds", &flags->seeds},
                                                   {"--seed", &flags->seed},
                                                   {"--processes", &flags->processes}};
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--trace") {
      flags->trace = true;
    } else if (flag == "--planted") {
      flags->planted = true;
    } else if (flag == "--plant" && i + 1 < argc) {
      flags->plant = argv[++i];
    } else if (numbers.count(flag) != 0 && i + 1 < argc) {
      if (!absl::SimpleAtoi(argv[++i], numbers.at(flag))) return false;
    } else {
      return false;
    }
  }
  return flags->processes >= 1;
}

int Main(int argc, char** argv) {
  Flags flags;
  if (!Parse(argc, argv, &flags) || !Plant(flags.plant)) {
    std::fprintf(stderr, "see the head of tests/sim/sim_main.cc; planted bugs:\n");
    for (const PlantedBug& bug : PlantedBugs()) {
      std::fprintf(stderr, "  %-32s %s\n", bug.name, bug.what);
    }
    return kExitUsage;
  }
  SetLogLevel(LogLevel::kError);
  // In memory where there is such a file system: what a disk would lose is simulated.
  if (FileExists("/dev/shm")) setenv("TMPDIR", "/dev/shm", /*overwrite=*/0);
  if (!flags.trace) std::freopen("/dev/null", "w", stderr);
  if (flags.planted) return RunPlanted(argv[0], flags);
  if (flags.seed >= 0) return RunOne(argv[0], flags);
  return RunMany(argv[0], flags);
}

}  // namespace
}  // namespace nibble::sim

int main(int argc, char** argv) { return nibble::sim::Main(argc, argv); }
