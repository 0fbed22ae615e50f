// The first policy by snapshots: queue and workers, and what starts in which order.
#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/scheduler/scheduling_policy.h"

namespace nibble::scheduler {
namespace {

// A view over literal lists.
class LiteralView : public SchedulingView {
 public:
  LiteralView(std::vector<QueuedJob> queue, std::map<std::string, int32_t> free)
      : queue_(std::move(queue)), free_(std::move(free)) {}

  std::vector<QueuedJob> Heads() const override {
    std::map<int32_t, QueuedJob> heads;
    for (const QueuedJob& job : queue_) {
      const auto [head, inserted] = heads.emplace(job.slots, job);
      if (!inserted && Order(job) < Order(head->second)) head->second = job;
    }
    std::vector<QueuedJob> list;
    for (const auto& [slots, job] : heads) list.push_back(job);
    return list;
  }
  int32_t FreeSlots(absl::string_view worker_id) const override {
    const auto found = free_.find(std::string(worker_id));
    return found == free_.end() ? 0 : found->second;
  }
  std::optional<std::string> TightestFit(int32_t slots) const override {
    std::optional<std::string> best;
    for (const auto& [worker, free] : free_) {
      if (free >= slots && (!best.has_value() || free < free_.at(*best))) best = worker;
    }
    return best;
  }
  void Apply(const Decision& decision) {
    const auto job = std::find_if(queue_.begin(), queue_.end(), [&decision](const QueuedJob& j) {
      return j.job_id == decision.job_id;
    });
    free_[decision.worker_id] -= job->slots;
    queue_.erase(job);
  }

 private:
  static std::tuple<int32_t, int64_t> Order(const QueuedJob& job) {
    return {-job.priority, job.submit_sequence};
  }
  std::vector<QueuedJob> queue_;
  std::map<std::string, int32_t> free_;
};

struct Snapshot {
  const char* story;
  std::vector<QueuedJob> queue;  // id, priority, sequence, slots, preferred worker
  std::map<std::string, int32_t> free;
  std::vector<std::string> starts;  // "job@worker", in order
};

const Snapshot kSnapshots[] = {
    {"nothing to do", {}, {{"w", 4}}, {}},
    {"no worker", {{"a", 0, 1, 1, ""}}, {}, {}},
    {"no free slot", {{"a", 0, 1, 1, ""}}, {{"w", 0}}, {}},
    {"submission order",
     {{"b", 0, 2, 1, ""}, {"a", 0, 1, 1, ""}, {"c", 0, 3, 1, ""}},
     {{"w", 2}},
     {"a@w", "b@w"}},
    {"priority before order",
     {{"a", 0, 1, 1, ""}, {"b", 5, 2, 1, ""}, {"c", -5, 3, 1, ""}},
     {{"w", 3}},
     {"b@w", "a@w", "c@w"}},
    {"all slots or none", {{"a", 0, 1, 4, ""}}, {{"w", 3}, {"v", 3}}, {}},
    {"a wide job holds nobody up", {{"a", 9, 1, 8, ""}, {"b", 0, 2, 1, ""}}, {{"w", 4}}, {"b@w"}},
    {"the tightest fit keeps wide room",
     {{"a", 0, 1, 1, ""}, {"b", 0, 2, 4, ""}},
     {{"v", 4}, {"w", 2}},
     {"a@w", "b@v"}},
    {"of equal fits the first by name", {{"a", 0, 1, 1, ""}}, {{"w", 2}, {"v", 2}}, {"a@v"}},
    {"where the checkpoint lies", {{"a", 0, 1, 1, "w"}}, {{"v", 1}, {"w", 7}}, {"a@w"}},
    {"elsewhere where that is full", {{"a", 0, 1, 2, "w"}}, {{"v", 2}, {"w", 1}}, {"a@v"}},
    {"different widths keep their order",
     {{"a", 0, 1, 2, ""}, {"b", 0, 2, 1, ""}, {"c", 0, 3, 2, ""}},
     {{"w", 4}},
     {"a@w", "b@w"}},
};

TEST(PriorityPolicyTest, SnapshotsStartInTheGivenOrder) {
  const auto policy = MakePriorityPolicy();
  for (const Snapshot& snapshot : kSnapshots) {
    LiteralView view(snapshot.queue, snapshot.free);
    std::vector<std::string> starts;
    while (const auto decision = policy->Next(view)) {
      EXPECT_EQ(policy->Next(view), decision) << "asking twice changes nothing";
      starts.push_back(absl::StrCat(decision->job_id, "@", decision->worker_id));
      view.Apply(*decision);
    }
    EXPECT_EQ(starts, snapshot.starts) << snapshot.story;
  }
}

}  // namespace
}  // namespace nibble::scheduler
