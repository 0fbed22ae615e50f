// Stories of training safety as the scheduler sees it. After each event every invariant held.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduler/test_world.h"

namespace nibble::scheduler {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class SafetyEventsTest : public ::testing::Test {
 protected:
  ~SafetyEventsTest() override { EXPECT_THAT(world_.violations(), IsEmpty()); }
  std::string Running(int32_t keep = 1) {
    JobDocument document;
    document.keep_checkpoints = keep;
    const std::string job = world_.Submit(std::move(document));
    world_.Report("w", {job, 1}, AttemptStatus::kTraining);
    return job;
  }
  AttemptReported ReportOf(const std::string& job, AttemptStatus status, JobReason reason) {
    AttemptReported report;
    report.worker_id = "w";
    report.incarnation = "i1";
    report.attempt = {job, world_.job(job).attempt};
    report.status = status;
    report.reason = reason;
    report.note_sequence = 1;
    report.cause = "guard:loss_spike";
    report.message = "the loss of step 12 is 9";
    return report;
  }
  std::vector<JobEventRecord> EventsOf(const std::string& job) {
    std::vector<JobEventRecord> events;
    for (const JobEventRecord& event : world_.ledger().events) {
      if (event.job_id == job) events.push_back(event);
    }
    return events;
  }
  size_t Events(const std::string& job, JobReason reason) {
    size_t count = 0;
    for (const JobEventRecord& event : EventsOf(job)) count += event.reason == reason;
    return count;
  }
  World world_;
};

// Seen red without the comparison of sequences.
TEST_F(SafetyEventsTest, ANoteIsAnEventAndSentAgainNoSecondOne) {
  world_.Register("w", 1);
  const std::string job = Running();
  AttemptReported note = ReportOf(job, AttemptStatus::kNoted, JobReason::kTrainerRestarted);
  note.failure_class = FailureClass::kOutOfMemory;
  EXPECT_TRUE(world_.Step(note).error.ok());
  EXPECT_TRUE(world_.Step(note).error.ok());
  EXPECT_EQ(Events(job, JobReason::kTrainerRestarted), 1u);
  EXPECT_EQ(world_.state(job), JobState::kRunning);
  EXPECT_EQ(world_.job(job).failures, 1);
  EXPECT_EQ(world_.job(job).failures_without_progress, 0) << "nothing was lost";
  EXPECT_EQ(world_.job(job).last_failure, FailureClass::kOutOfMemory);
  note.note_sequence = 2;
  world_.Step(note);
  EXPECT_EQ(Events(job, JobReason::kTrainerRestarted), 2u);
  note.attempt.attempt = 2;
  EXPECT_EQ(world_.Step(note).error.reason, ErrorReason::kStaleAttempt);
}

TEST_F(SafetyEventsTest, AGuardPausesAJobThatResumes) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Commit("w", {job, 1}, 11);
  EXPECT_TRUE(
      world_.Step(ReportOf(job, AttemptStatus::kGuardPaused, JobReason::kGuardTripped)).error.ok());
  EXPECT_EQ(world_.state(job), JobState::kPaused);
  EXPECT_EQ(world_.job(job).reason, JobReason::kGuardTripped);
  EXPECT_THAT(world_.job(job).reason_message, ::testing::HasSubstr("loss of step 12"));
  EXPECT_EQ(world_.scheduler().Stats().slots_used, 0);
  EXPECT_EQ(EventsOf(job).back().cause, "guard:loss_spike");
  const auto explained = world_.scheduler().Explain(job, {});
  ASSERT_TRUE(explained.has_value());
  EXPECT_THAT(explained->reasons.at(0).message, ::testing::HasSubstr("loss of step 12"));
  EXPECT_TRUE(
      world_.Step(ReportOf(job, AttemptStatus::kGuardPaused, JobReason::kGuardTripped)).error.ok())
      << "reported again";
  world_.Step(ResumeRequested{job, "user"});
  EXPECT_EQ(world_.state(job), JobState::kStarting);
  EXPECT_EQ(world_.list("w").assignments[0].resume_from->step, 11);
}

TEST_F(SafetyEventsTest, AGuardThatStopsAJobBeingCancelledCancelsIt) {
  world_.Register("w", 1);
  const std::string job = Running();
  world_.Step(CancelRequested{job, "user"});
  world_.Step(ReportOf(job, AttemptStatus::kGuardPaused, JobReason::kGuardTripped));
  EXPECT_EQ(world_.state(job), JobState::kCancelled);
}

// Seen red with the last one given up as well.
TEST_F(SafetyEventsTest, ADamagedCheckpointIsGivenUpButNeverTheLast) {
  world_.Register("w", 1);
  const std::string job = Running(/*keep=*/2);
  world_.Commit("w", {job, 1}, 10);
  world_.Commit("w", {job, 1}, 20);
  ASSERT_THAT(world_.list("w").assignments[0].fallbacks, SizeIs(1));
  EXPECT_EQ(world_.list("w").assignments[0].fallbacks[0].step, 10);
  AttemptReported note = ReportOf(job, AttemptStatus::kNoted, JobReason::kCheckpointQuarantined);
  note.damaged_attempt = 1;
  note.damaged_step = 20;
  world_.Step(note);
  EXPECT_EQ(world_.list("w").assignments[0].resume_from->step, 10);
  note.note_sequence = 2;
  note.damaged_step = 10;
  world_.Step(note);
  ASSERT_TRUE(world_.list("w").assignments[0].resume_from.has_value());
  EXPECT_EQ(world_.list("w").assignments[0].resume_from->step, 10);
  EXPECT_TRUE(world_.Commit("w", {job, 1}, 20).error.ok()) << "trained again";
}

}  // namespace
}  // namespace nibble::scheduler
