// What the command line does without a daemon: help, usage errors, validate, data, completion,
// version, and the pieces that format text.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/client_testing.h"
#include "client/message_text.h"
#include "client/plot.h"
#include "client/text.h"
#include "nlohmann/json.hpp"
#include "yaml-cpp/yaml.h"

namespace nibble::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(ClientTest, HelpNamesEveryVerbAndTheExitCodes) {
  const Outcome outcome = RunAlone({"--help"});
  EXPECT_EQ(outcome.code, 0);
  for (const char* verb : {"submit",
                           "get",
                           "list",
                           "watch",
                           "logs",
                           "metrics",
                           "compare",
                           "explain",
                           "update",
                           "workers drain",
                           "workers undrain",
                           "projects",
                           "backup",
                           "pause",
                           "resume",
                           "cancel",
                           "delete",
                           "checkpoints",
                           "events",
                           "workers",
                           "info",
                           "validate",
                           "presets",
                           "data prepare",
                           "data inspect",
                           "data train-tokenizer",
                           "completion",
                           "version"}) {
    EXPECT_THAT(outcome.out, HasSubstr(absl::StrCat("\n  ", verb, " ")));
    const std::vector<std::string> words = absl::StrSplit(absl::StrCat(verb, " --help"), ' ');
    const Outcome help = RunAlone(words);
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr(absl::StrCat("nibble ", verb)));
    EXPECT_THAT(help.out, HasSubstr("Examples"));
  }
  EXPECT_THAT(outcome.out, HasSubstr("  5    no answer"));
  EXPECT_EQ(RunAlone({"help", "submit"}).out, RunAlone({"submit", "--help"}).out);
  EXPECT_THAT(RunAlone({"data", "--help"}).out, HasSubstr("data inspect"));
}

TEST_F(ClientTest, WrongCommandLinesExitWithTwoAndSayWhatIsRight) {
  EXPECT_EQ(RunAlone({}).code, 2);
  const Outcome typo = RunAlone({"sumbit", "x.yaml"});
  EXPECT_EQ(typo.code, 2);
  EXPECT_THAT(typo.err, HasSubstr("there is no verb `sumbit`; did you mean `submit`?"));
  EXPECT_THAT(RunAlone({"get"}).err, HasSubstr("JOB"));
  EXPECT_EQ(RunAlone({"get"}).code, 2);
  EXPECT_EQ(RunAlone({"list", "--limit", "x"}).code, 2);
  EXPECT_THAT(RunAlone({"list", "--nosuch"}).err, HasSubstr("--nosuch"));
  EXPECT_EQ(RunAlone({"list", "--state", "walking"}).code, 2);
  EXPECT_EQ(RunAlone({"version", "-o", "csv"}).code, 2);
  EXPECT_EQ(RunAlone({"info", "--timeout", "-1s"}).code, 2);
  EXPECT_EQ(RunAlone({"info", "--server", "http://x/"}).code, 2);
  EXPECT_EQ(RunAlone({"info", "--tls-ca", "/nosuch.pem"}).code, 2);
  EXPECT_EQ(RunAlone({"info", "--tls-cert", "/nosuch.pem"}).code, 2);
  EXPECT_EQ(RunAlone({"data"}).code, 2);
}

TEST_F(ClientTest, VersionStartsFast) {
  const std::string program = "/proc/self/exe";
  char self[4096];
  const ssize_t length = readlink(program.c_str(), self, sizeof(self));
  ASSERT_GT(length, 0);
  const std::string test(self, length);
  const std::string nibble = test.substr(0, test.rfind('/', test.rfind('/') - 1)) + "/bin/nibble";
  if (!FileExists(nibble)) GTEST_SKIP() << nibble << " is not built";
  // Processor time, the best of ten: other work on the machine must not decide.
  int64_t best_micros = INT64_MAX;
  for (int i = 0; i < 10; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      if (freopen("/dev/null", "w", stdout) == nullptr) _exit(1);
      execl(nibble.c_str(), "nibble", "version", nullptr);
      _exit(127);
    }
    int status = 0;
    rusage usage = {};
    ASSERT_EQ(wait4(child, &status, 0, &usage), child);
    ASSERT_EQ(status, 0);
    const auto micros = [](const timeval& time) { return time.tv_sec * 1'000'000 + time.tv_usec; };
    best_micros = std::min(best_micros, micros(usage.ru_utime) + micros(usage.ru_stime));
  }
  EXPECT_LT(best_micros, 50'000);
}

constexpr char kSpec[] = R"(name: a
model: {preset: llama-tiny}
data: {path: kjv}
training: {steps: 5, sequence_length: 128, batch_size: 4}
precision: {recipe: nvfp4}
)";

TEST_F(ClientTest, ValidateShowsEveryLinearLayerWithItsFormats) {
  const Outcome outcome = RunAlone({"validate", WriteFile("job.yaml", kSpec)});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("tokens/step  512\n"));
  EXPECT_THAT(outcome.out, HasSubstr("X nvfp4 1x16 nearest | W nvfp4 16x16 nearest"));
  EXPECT_THAT(outcome.out, HasSubstr("dY nvfp4 1x16 stochastic | W^T nvfp4 16x16 nearest"));
  EXPECT_THAT(outcome.out, HasSubstr("dY^T nvfp4 1x16 hadamard-16 stochastic | X^T nvfp4 1x16 "
                                     "hadamard-16 nearest"));
  for (int block = 0; block < 4; ++block) {
    for (const char* layer : {"attention.qkv", "attention.output", "mlp.gate_up", "mlp.down"}) {
      EXPECT_THAT(outcome.out, HasSubstr(absl::StrCat("\nblocks.", block, ".", layer, " ")));
    }
  }
  // The last block stays in BF16.
  const size_t last = outcome.out.find("\nblocks.3.attention.qkv");
  EXPECT_THAT(outcome.out.substr(last), HasSubstr("X bf16 | W bf16"));
  const auto json =
      nlohmann::json::parse(RunAlone({"validate", WriteFile("job.yaml", kSpec), "-o", "json"}).out);
  EXPECT_EQ(json["precision"]["linears"].size(), 16);
  EXPECT_EQ(json["spec"]["optimizer"]["name"], "adamw");
  EXPECT_GT(json["flops_per_token"], 0);
}

TEST_F(ClientTest, ValidateListsEveryWrongFieldWithPathAndWhatIsAllowed) {
  const Outcome outcome = RunAlone({"validate", "-"},
                                   "name: Bad Name\nmodel: {preset: llama-tiny, heads: -1}\n"
                                   "data: {path: kjv}\ntraining: {steps: 5, batch_size: 0}\n");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, HasSubstr("\n  name: "));
  EXPECT_THAT(outcome.err, HasSubstr("\n  model.heads: "));
  EXPECT_THAT(outcome.err, HasSubstr("\n  training.batch_size: "));
  EXPECT_THAT(outcome.err, HasSubstr("allowed"));
}

TEST_F(ClientTest, TheExamplesAreValid) {
  for (const char* name : {"kjv-nvfp4.yaml", "kjv-bf16.yaml", "scored.yaml", "tiny.yaml"}) {
    const Outcome outcome = RunAlone({"validate", absl::StrCat("deploy/examples/", name)});
    EXPECT_EQ(outcome.code, 0) << name << "\n" << outcome.err;
    EXPECT_EQ(outcome.err, "") << name;
  }
}

TEST_F(ClientTest, DataIsPreparedAndInspected) {
  std::string text;
  for (int i = 0; i < 40; ++i) absl::StrAppend(&text, "In the beginning was document ", i, ".\n\n");
  const std::string file = WriteFile("text.txt", text);
  const Outcome prepared =
      RunAlone({"data", "prepare", file, "--name", "small", "--separator", "\n\n", "-o", "json"});
  ASSERT_EQ(prepared.code, 0) << prepared.err;
  const auto value = nlohmann::json::parse(prepared.out);
  EXPECT_EQ(value["vocab_size"], 256);
  EXPECT_GE(value["validation"]["documents"], 2);
  EXPECT_EQ(value["directory"], directory_.path() + "/data/small");
  const Outcome inspected = RunAlone({"data", "inspect", "small"});
  EXPECT_EQ(inspected.code, 0) << inspected.err;
  EXPECT_THAT(inspected.out, HasSubstr("It begins: In the beginning was document 0."));
  // There already; not there; neither nor both of --name and --out.
  EXPECT_EQ(RunAlone({"data", "prepare", file, "--name", "small"}).code, 4);
  EXPECT_EQ(RunAlone({"data", "prepare", "/nosuch.txt", "--name", "other"}).code, 2);
  EXPECT_EQ(RunAlone({"data", "prepare", file}).code, 2);
  EXPECT_EQ(RunAlone({"data", "prepare", file, "--name", "../up"}).code, 2);
  EXPECT_EQ(RunAlone({"data", "inspect", "/nosuch"}).code, 2);
}

bool HasShell(const std::string& shell) {
  return system(absl::StrCat("command -v ", shell, " >/dev/null").c_str()) == 0;
}

// What `command` prints, its lines joined with spaces.
std::string OutputOf(const std::string& command) {
  std::string out;
  std::FILE* pipe = popen(absl::StrCat(command, " 2>&1 | tr '\\n' ' '").c_str(), "r");
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) out.append(buffer, n);
  pclose(pipe);
  return out;
}

TEST_F(ClientTest, CompletionScriptsAreWhatTheirShellsRead) {
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const Outcome outcome = RunAlone({"completion", shell});
    ASSERT_EQ(outcome.code, 0);
    const std::string path = WriteFile("completion." + shell, outcome.out);
    if (!HasShell(shell)) continue;
    EXPECT_EQ(OutputOf(absl::StrCat(shell, " -n ", path)), "") << shell;
  }
}

TEST_F(ClientTest, BashCompletes) {
  const std::string script = WriteFile("completion.bash", RunAlone({"completion", "bash"}).out);
  const auto complete = [&](const std::string& words, int index) {
    return OutputOf(absl::StrCat("bash -c 'source ", script, "; COMP_WORDS=(", words,
                                 "); COMP_CWORD=", index, "; _nibble; echo \"${COMPREPLY[@]}\"'"));
  };
  EXPECT_EQ(complete("nibble comp", 1), "compare completion ");
  EXPECT_EQ(complete("nibble data \"\"", 2), "prepare inspect train-tokenizer ");
  EXPECT_EQ(complete("nibble completion \"\"", 2), "bash zsh fish ");
  EXPECT_EQ(complete("nibble --server x data prepare --tok", 5), "--tokenizer ");
  EXPECT_EQ(complete("nibble data prepare --split \"\"", 4), "last hash ");
}

TEST_F(ClientTest, FishCompletes) {
  if (!HasShell("fish")) GTEST_SKIP() << "fish is not installed";
  const std::string script = WriteFile("completion.fish", RunAlone({"completion", "fish"}).out);
  const auto complete = [&](const std::string& line) {
    return OutputOf(absl::StrCat("fish -N -c 'source ", script, "; complete -C \"", line,
                                 "\" | string replace -r \"\\t.*\" \"\"'"));
  };
  EXPECT_EQ(complete("nibble comp"), "compare completion ");
  EXPECT_EQ(complete("nibble data "), "inspect prepare train-tokenizer ");
  EXPECT_EQ(complete("nibble list --st"), "--state ");
}

// The functions of zsh's completion system say what they were given.
TEST_F(ClientTest, ZshCompletes) {
  if (!HasShell("zsh")) GTEST_SKIP() << "zsh is not installed";
  const std::string script = WriteFile("completion.zsh", RunAlone({"completion", "zsh"}).out);
  const auto complete = [&](const std::string& words, int current) {
    return OutputOf(absl::StrCat(
        "zsh -f -c 'compdef() {}; _describe() { print -rl -- ${(P)2} }; compadd() { print $* }; "
        "_arguments() { print -rl -- $* }; source ",
        script, "; words=(", words, "); CURRENT=", current, "; _nibble'"));
  };
  EXPECT_THAT(complete("nibble \"\"", 2), HasSubstr("compare:Two jobs side by side"));
  EXPECT_EQ(complete("nibble data \"\"", 3), "prepare inspect train-tokenizer ");
  EXPECT_THAT(complete("nibble list --st", 3), HasSubstr("--state["));
  EXPECT_THAT(complete("nibble data prepare --split \"\"", 5), HasSubstr("(last hash)"));
}

TEST(TextTest, NumbersAndTimesReadWell) {
  EXPECT_EQ(Grouped(-1234567), "-1,234,567");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Short(0), "0");
  EXPECT_EQ(Short(999.6), "1.00k");
  EXPECT_EQ(Short(25123), "25.1k");
  EXPECT_EQ(Short(1.9e6), "1.90M");
  EXPECT_EQ(Bytes(1536), "1.5 KiB");
  EXPECT_EQ(Duration(0.44), "0.4 s");
  EXPECT_EQ(Duration(59.7), "1:00");
  EXPECT_EQ(Duration(3725), "1:02:05");
  EXPECT_EQ(Duration(NAN), "?");
  EXPECT_EQ(SignedPercent(0.0085), "+0.85 %");
  for (const double value : {0.1, 1e-300, 1.0 / 3, 25123.0, 5e22, -0.0}) {
    EXPECT_EQ(std::stod(Exact(value)), value);
  }
  EXPECT_EQ(EditDistance("sumbit", "submit"), 2);
}

TEST(TextTest, WidthsCountWhatATerminalShows) {
  EXPECT_EQ(DisplayWidth("\033[31m→ab\033[0m"), 3);
  EXPECT_EQ(DisplayWidth("漢字"), 4);
  EXPECT_EQ(Truncate("\033[31mabc\033[0m", 2), "\033[31mab\033[0m");
  EXPECT_EQ(PadLeft("→", 3), "  →");
}

TEST(MessageTextTest, YamlReadsBackAsTheJson) {
  const nlohmann::ordered_json value = {{"plain", "abc"},
                                        {"number", "12"},
                                        {"word", "yes"},
                                        {"colon", "a: b"},
                                        {"empty", ""},
                                        {"list", {1, "x", {{"k", nullptr}}}},
                                        {"none", nlohmann::ordered_json::array()},
                                        {"control", "\x1b"}};
  const YAML::Node node = YAML::Load(YamlText(value));
  EXPECT_EQ(node["plain"].Scalar(), "abc");
  EXPECT_EQ(node["number"].Tag(), "!");  // quoted: text, not a number
  EXPECT_EQ(node["word"].Tag(), "!");
  EXPECT_EQ(node["colon"].Scalar(), "a: b");
  EXPECT_EQ(node["list"][2]["k"].IsNull(), true);
  EXPECT_EQ(node["none"].size(), 0u);
  EXPECT_EQ(node["control"].Scalar(), "\x1b");
}

TEST(PlotTest, AsciiPlotHasAxesAndTheCurve) {
  Terminal terminal;
  Series line{"loss", {}, {}, Color::kDefault};
  for (int i = 0; i <= 10; ++i) {
    line.x.push_back(100 * i);
    line.y.push_back(10 - i);
  }
  const PlotSize size{.columns = 21, .rows = 3};
  EXPECT_EQ(Plot(terminal, {line}, size, "steps"),
            "    10.0 |***        \n"
            "     5.0 |   *****   \n"
            "     0.0 |        ***\n"
            "         +-----------\n"
            "          0 1.00k steps\n");
}

TEST(PlotTest, SurvivesEmptyConstantAndNonFiniteData) {
  Terminal terminal;
  terminal.unicode = true;
  EXPECT_EQ(Plot(terminal, {Series{"a", {}, {}}}, {}, "x"), "");
  EXPECT_EQ(Plot(terminal, {Series{"a", {1}, {NAN}}}, {}, "x"), "");
  EXPECT_THAT(Plot(terminal, {Series{"a", {1}, {2}}}, {}, "x"), HasSubstr("┤"));
  EXPECT_THAT(Plot(terminal, {Series{"a", {1, 2, 3}, {2, INFINITY, 2}}}, {}, "x"), HasSubstr("x"));
}

}  // namespace
}  // namespace nibble::client
