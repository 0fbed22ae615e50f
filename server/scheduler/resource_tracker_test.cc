#include "server/scheduler/resource_tracker.h"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "server/scheduler/lease_table.h"

namespace nibble::scheduler {
namespace {

TEST(LeaseTableTest, ALeaseEndsAtItsDeadline) {
  LeaseTable leases;
  leases.Renew("a", 10, 20);
  leases.Renew("b", 11, 25);
  EXPECT_TRUE(leases.Expired(19).empty());
  EXPECT_EQ(leases.Expired(20), std::vector<std::string>{"a"});
  EXPECT_EQ(leases.CountSilentSince(10), 1u);
  EXPECT_EQ(leases.CountSilentSince(9), 0u);
  leases.Extend("a", 30);
  EXPECT_EQ(leases.Expired(30), (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(leases.LastRenewal("a"), 10);
}

TEST(ResourceTrackerTest, ReservesAllOrNothing) {
  ResourceTracker tracker;
  ASSERT_THAT(tracker.SetWorker("w", 3, /*open=*/true), IsOk());
  EXPECT_THAT(tracker.Reserve({"a", 1}, "w", 2), IsOk());
  EXPECT_THAT(tracker.Reserve({"b", 1}, "w", 2), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(tracker.Held({"b", 1}, "w"), 0);
  EXPECT_EQ(tracker.FreeSlots("w"), 1);
  EXPECT_THAT(tracker.Reserve({"a", 1}, "w", 1), StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(tracker.Reserve({"a", 2}, "w", 0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(tracker.Reserve({"a", 2}, "v", 1), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(tracker.SetWorker("w", 1, true), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(tracker.RemoveWorker("w"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(tracker.Release({"a", 1}, "w"), IsOk());
  EXPECT_THAT(tracker.Release({"a", 1}, "w"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(tracker.RemoveWorker("w"), IsOk());
  EXPECT_EQ(tracker.total_slots(), 0);
  EXPECT_THAT(tracker.Verify(), IsOk());
}

TEST(ResourceTrackerTest, AClosedWorkerKeepsItsHoldersAndOffersNothing) {
  ResourceTracker tracker;
  ASSERT_THAT(tracker.SetWorker("w", 4, true), IsOk());
  ASSERT_THAT(tracker.Reserve({"a", 1}, "w", 1), IsOk());
  ASSERT_THAT(tracker.SetWorker("w", 4, false), IsOk());
  EXPECT_EQ(tracker.FreeSlots("w"), 0);
  EXPECT_TRUE(tracker.open_by_free().empty());
  EXPECT_THAT(tracker.Reserve({"b", 1}, "w", 1), IsOk()) << "adoption works on closed workers";
  ASSERT_THAT(tracker.SetWorker("w", 4, true), IsOk());
  EXPECT_EQ(tracker.FreeSlots("w"), 2);
  EXPECT_EQ(tracker.open_by_free().begin()->second, "w");
}

// Seen red with a Release that forgot used_slots_, and with an Unindex left out.
TEST(ResourceTrackerTest, EqualsItsRecomputationAfterAnyOperations) {
  std::mt19937_64 random(7);
  ResourceTracker tracker;
  for (int i = 0; i < 20'000; ++i) {
    const std::string worker = absl::StrCat("w", random() % 5);
    const AttemptId attempt{absl::StrCat("j", random() % 20), static_cast<int64_t>(random() % 3)};
    switch (random() % 5) {
      case 0:
        tracker.SetWorker(worker, random() % 9, random() % 2 == 0).IgnoreError();
        break;
      case 1:
        tracker.Reserve(attempt, worker, random() % 5).IgnoreError();
        break;
      case 3: {
        const int32_t free = tracker.FreeSlots(worker), other = tracker.FreeSlots("w0");
        const bool reserved =
            tracker.Reserve(attempt, {{worker, "", 1}, {"w0", "", 2}, {"none", "", 1}}).ok();
        EXPECT_FALSE(reserved);
        EXPECT_EQ(tracker.FreeSlots(worker), free) << "all or nothing";
        EXPECT_EQ(tracker.FreeSlots("w0"), other);
        break;
      }
      case 2:
        tracker.Release(attempt, worker).IgnoreError();
        break;
      default:
        if (random() % 10 == 0) tracker.RemoveWorker(worker).IgnoreError();
    }
    ASSERT_THAT(tracker.Verify(), IsOk()) << "after operation " << i;
  }
}

}  // namespace
}  // namespace nibble::scheduler
