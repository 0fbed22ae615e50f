#include "server/projects_file.h"

#include <string>

#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::daemon {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::Status Read(const std::string& text, scheduler::SchedulerOptions* options) {
  const std::string path = JoinPath(::testing::TempDir(), "projects.yaml");
  const absl::Status written = WriteFileDurably(path, text);
  return written.ok() ? ReadProjectsFile(path, options) : written;
}

TEST(ProjectsFileTest, WhatItSaysIsWhatTheSchedulerGets) {
  scheduler::SchedulerOptions options;
  ASSERT_THAT(Read("projects:\n"
                   "  - {name: lm, weight: 2.5, quota_slots: 4, limit_slots: 8, max_jobs: 100}\n"
                   "  - {name: default}\n"
                   "fair_share_half_life_seconds: 3600\n"
                   "ageing_seconds: 30\nmin_run_seconds: 0\npause_grace_seconds: 10\n",
                   &options),
              IsOk());
  ASSERT_EQ(options.projects.size(), 2u);
  EXPECT_EQ(options.projects[0], (scheduler::ProjectOptions{"lm", 2.5, 4, 8, 100}));
  EXPECT_EQ(options.projects[1], (scheduler::ProjectOptions{"default", 1, 0, {}, 0}));
  EXPECT_EQ(options.fair_share_half_life_nanos, 3'600'000'000'000);
  EXPECT_EQ(options.ageing_nanos, 30'000'000'000);
  EXPECT_EQ(options.min_run_nanos, 0);
  EXPECT_EQ(options.pause_grace_nanos, 10'000'000'000);
}

TEST(ProjectsFileTest, EveryWrongFieldIsNamed) {
  scheduler::SchedulerOptions options;
  EXPECT_THAT(Read("projects:\n"
                   "  - {name: Lm, weight: 0}\n"
                   "  - {name: a, quota_slots: 5, limit_slots: 4}\n"
                   "  - {name: a, max_jobs: -1}\n"
                   "ageing_seconds: 0\n",
                   &options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("projects[0].name"), HasSubstr("projects[0].weight"),
                             HasSubstr("projects[1].limit_slots"), HasSubstr("projects[2].name"),
                             HasSubstr("projects[2].max_jobs"), HasSubstr("ageing_seconds"))));
  EXPECT_THAT(Read("project: []\n", &options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("project")));
  EXPECT_THAT(ReadProjectsFile("/none", &options), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace nibble::daemon
