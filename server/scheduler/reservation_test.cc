// Reservations and victims by literal lists.
//
// Seen red with a shadow of kNever, victims taken dearest first, and needless victims kept.
#include "server/scheduler/reservation.h"

#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace nibble::scheduler {
namespace {

using Slots = std::map<std::string, int32_t>;
constexpr int64_t kNow = 100;

struct PlanCase {
  const char* story;
  int32_t slots;
  bool spread;
  std::vector<WorkerOutlook> workers;  // name, total, free, {{at, slots}...}
  Slots kept;                          // empty where there is no plan
  int64_t start = 0;
  int64_t shadow = 0;
};

const PlanCase kPlans[] = {
    {"nothing to run on", 1, false, {}, {}},
    {"too wide for each", 3, false, {{"a", 2, 2, {}}, {"b", 2, 2, {}}}, {}},
    {"wide enough together",
     3,
     true,
     {{"a", 2, 2, {}}, {"b", 2, 2, {}}},
     {{"a", 2}, {"b", 1}},
     100,
     100},
    {"the first end that leaves room",
     2,
     false,
     {{"a", 2, 0, {{300, 1}, {200, 1}}}},
     {{"a", 2}},
     300,
     300},
    {"the worker that has room first",
     2,
     false,
     {{"a", 2, 1, {{300, 1}}}, {"b", 2, 0, {{250, 2}}}},
     {{"b", 2}},
     250,
     250},
    {"of equal ones the first by name",
     1,
     false,
     {{"a", 1, 0, {{200, 1}}}, {"b", 1, 0, {{200, 1}}}},
     {{"a", 1}},
     200,
     200},
    {"an end in the past is now", 1, false, {{"a", 1, 0, {{50, 1}}}}, {{"a", 1}}, 100, 100},
    {"an unknown end: up to the last known one slots can be lent",
     3,
     false,
     {{"a", 4, 1, {{200, 1}, {kNever, 2}}}},
     {{"a", 3}},
     kNever,
     200},
    {"a known end elsewhere is better",
     2,
     false,
     {{"a", 2, 1, {{kNever, 1}}}, {"b", 2, 0, {{900, 2}}}},
     {{"b", 2}},
     900,
     900},
    {"over several, in the order of time",
     4,
     true,
     {{"a", 2, 0, {{500, 2}}}, {"b", 2, 1, {{400, 1}}}, {"c", 2, 0, {{300, 2}}}},
     {{"b", 2}, {"c", 2}},
     400,
     400},
};

TEST(ReservationTest, TheEarliestRoomIsKept) {
  for (const PlanCase& c : kPlans) {
    const auto plan = PlanReservation(c.slots, c.spread, c.workers, kNow);
    ASSERT_EQ(plan.has_value(), !c.kept.empty()) << c.story;
    if (!plan.has_value()) continue;
    EXPECT_EQ(plan->slots, c.kept) << c.story;
    EXPECT_EQ(plan->start_nanos, c.start) << c.story;
    EXPECT_EQ(plan->shadow_nanos, c.shadow) << c.story;
  }
}

struct VictimCase {
  const char* story;
  int32_t slots;
  bool spread;
  std::vector<WorkerOutlook> workers;
  std::vector<VictimCandidate> candidates;  // job, slots by worker, loss
  bool possible;
  std::vector<std::string> victims;
  Slots kept;
};

const VictimCase kVictims[] = {
    {"nobody may be preempted", 1, false, {{"a", 1, 0, {}}}, {}, false, {}, {}},
    {"the least loss",
     1,
     false,
     {{"a", 2, 0, {}}},
     {{"x", {{"a", 1}}, 50}, {"y", {{"a", 1}}, 20}},
     true,
     {"y"},
     {{"a", 1}}},
    {"the worker with the least loss",
     2,
     false,
     {{"a", 2, 0, {}}, {"b", 2, 0, {}}},
     {{"w", {{"a", 1}}, 10}, {"x", {{"a", 1}}, 90}, {"y", {{"b", 1}}, 30}, {"z", {{"b", 1}}, 40}},
     true,
     {"y", "z"},
     {{"b", 2}}},
    {"free slots are used",
     2,
     false,
     {{"a", 2, 1, {}}},
     {{"x", {{"a", 1}}, 10}, {"y", {{"a", 1}}, 5}},
     true,
     {"y"},
     {{"a", 2}}},
    {"slots on their way are waited for",
     2,
     false,
     {{"a", 2, 0, {{100, 2}}}},
     {{"x", {{"a", 1}}, 1}},
     true,
     {},
     {{"a", 2}}},
    {"nobody is a victim needlessly",
     4,
     false,
     {{"a", 5, 0, {}}},
     {{"small", {{"a", 1}}, 1}, {"large", {{"a", 4}}, 100}},
     true,
     {"large"},
     {{"a", 4}}},
    {"by loss per slot",
     2,
     false,
     {{"a", 4, 0, {}}},
     {{"x", {{"a", 2}}, 30}, {"y", {{"a", 1}}, 20}, {"z", {{"a", 1}}, 20}},
     true,
     {"x"},
     {{"a", 2}}},
    {"one gang makes room on two workers",
     3,
     true,
     {{"a", 2, 0, {}}, {"b", 2, 0, {}}},
     {{"x", {{"a", 2}, {"b", 2}}, 8}, {"y", {{"a", 2}}, 5}},
     true,
     {"x"},
     {{"a", 2}, {"b", 1}}},
    {"not enough of them", 3, false, {{"a", 4, 0, {}}}, {{"x", {{"a", 2}}, 1}}, false, {}, {}},
};

TEST(VictimTest, TheLeastWorkIsLost) {
  for (const VictimCase& c : kVictims) {
    const auto choice = ChooseVictims(c.slots, c.spread, c.workers, c.candidates);
    ASSERT_EQ(choice.has_value(), c.possible) << c.story;
    if (!choice.has_value()) continue;
    EXPECT_EQ(choice->job_ids, c.victims) << c.story;
    EXPECT_EQ(choice->slots, c.kept) << c.story;
  }
}

}  // namespace
}  // namespace nibble::scheduler
