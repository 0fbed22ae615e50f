#include "server/scheduler/reservation.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace nibble::scheduler {
namespace {

// Slots that come free on a worker at a time; free ones at kMin.
struct Arrival {
  int64_t at_nanos;
  const std::string* worker_id;
  int32_t slots;
};

constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

void AddArrivals(const WorkerOutlook& worker, std::vector<Arrival>& arrivals) {
  if (worker.free > 0) arrivals.push_back({kMin, &worker.worker_id, worker.free});
  for (const auto& release : worker.releases) {
    arrivals.push_back({release.at_nanos, &worker.worker_id, release.slots});
  }
}

// Takes arrivals in the order of time until there are enough.
std::optional<Reservation> Collect(int32_t slots, std::vector<Arrival> arrivals,
                                   int64_t now_nanos) {
  std::sort(arrivals.begin(), arrivals.end(), [](const Arrival& a, const Arrival& b) {
    return std::tie(a.at_nanos, *a.worker_id, b.slots) <
           std::tie(b.at_nanos, *b.worker_id, a.slots);
  });
  Reservation reservation;
  reservation.start_nanos = reservation.shadow_nanos = now_nanos;
  int32_t missing = slots;
  for (const Arrival& arrival : arrivals) {
    if (missing <= 0) break;
    const int32_t taken = std::min(arrival.slots, missing);
    reservation.slots[*arrival.worker_id] += taken;
    missing -= taken;
    reservation.start_nanos = std::max(reservation.start_nanos, arrival.at_nanos);
    if (arrival.at_nanos != kNever) {
      reservation.shadow_nanos = std::max(reservation.shadow_nanos, arrival.at_nanos);
    }
  }
  if (missing > 0) return std::nullopt;
  return reservation;
}

// Cheapest candidates first until `missing` slots of the workers in `wanted` come free.
struct Greedy {
  std::vector<const VictimCandidate*> chosen;
  int64_t lost = 0;
  bool enough = false;
};

int32_t SlotsIn(const VictimCandidate& candidate, const std::map<std::string, int32_t>& workers) {
  int32_t slots = 0;
  for (const auto& [worker_id, held] : candidate.slots) {
    if (workers.count(worker_id) != 0) slots += held;
  }
  return slots;
}

Greedy Choose(int32_t missing, const std::map<std::string, int32_t>& workers,
              const std::vector<VictimCandidate>& candidates) {
  struct Priced {
    const VictimCandidate* candidate;
    int32_t slots;
  };
  std::vector<Priced> priced;
  for (const VictimCandidate& candidate : candidates) {
    const int32_t slots = SlotsIn(candidate, workers);
    if (slots > 0) priced.push_back({&candidate, slots});
  }
  std::stable_sort(priced.begin(), priced.end(), [](const Priced& a, const Priced& b) {
    // Loss per slot, without division; slots are below 2^20 and losses below 2^62 / 2^20 by then
    // would be 50 days on a million slots, so in doubles.
    return static_cast<double>(a.candidate->lost_slot_nanos) * b.slots <
           static_cast<double>(b.candidate->lost_slot_nanos) * a.slots;
  });
  Greedy greedy;
  std::vector<Priced> taken;
  for (const Priced& one : priced) {
    if (missing <= 0) break;
    taken.push_back(one);
    missing -= one.slots;
  }
  greedy.enough = missing <= 0;
  // The last ones may have made an earlier one needless: spare the dearest that is.
  std::stable_sort(taken.begin(), taken.end(), [](const Priced& a, const Priced& b) {
    return a.candidate->lost_slot_nanos > b.candidate->lost_slot_nanos;
  });
  for (const Priced& one : taken) {
    if (missing + one.slots <= 0) {
      missing += one.slots;
      continue;
    }
    greedy.chosen.push_back(one.candidate);
    greedy.lost += one.candidate->lost_slot_nanos;
  }
  return greedy;
}

int32_t Coming(const WorkerOutlook& worker) {
  int32_t slots = worker.free;
  for (const auto& release : worker.releases) {
    if (release.at_nanos != kNever) slots += release.slots;
  }
  return slots;
}

std::optional<VictimChoice> ChooseOn(int32_t slots, const std::map<std::string, int32_t>& coming,
                                     const std::vector<VictimCandidate>& candidates) {
  int32_t missing = slots;
  for (const auto& [worker_id, count] : coming) missing -= count;
  const Greedy greedy = Choose(missing, coming, candidates);
  if (!greedy.enough) return std::nullopt;
  VictimChoice choice;
  choice.lost_slot_nanos = greedy.lost;
  std::map<std::string, int32_t> available = coming;
  for (const VictimCandidate* victim : greedy.chosen) {
    choice.job_ids.push_back(victim->job_id);
    for (const auto& [worker_id, held] : victim->slots) {
      if (coming.count(worker_id) != 0) available[worker_id] += held;
    }
  }
  std::sort(choice.job_ids.begin(), choice.job_ids.end());
  int32_t left = slots;
  for (const auto& [worker_id, count] : available) {
    const int32_t taken = std::min(count, left);
    if (taken > 0) choice.slots[worker_id] = taken;
    left -= taken;
  }
  return choice;
}

}  // namespace

std::optional<Reservation> PlanReservation(int32_t slots, bool spread,
                                           const std::vector<WorkerOutlook>& workers,
                                           int64_t now_nanos) {
  std::vector<Arrival> arrivals;
  if (spread) {
    for (const WorkerOutlook& worker : workers) AddArrivals(worker, arrivals);
    return Collect(slots, std::move(arrivals), now_nanos);
  }
  std::optional<Reservation> best;
  for (const WorkerOutlook& worker : workers) {
    if (worker.total < slots) continue;
    arrivals.clear();
    AddArrivals(worker, arrivals);
    std::optional<Reservation> here = Collect(slots, arrivals, now_nanos);
    if (!here.has_value()) continue;
    const bool better =
        !best.has_value() || std::tie(here->start_nanos, here->slots.begin()->first) <
                                 std::tie(best->start_nanos, best->slots.begin()->first);
    if (better) best = std::move(here);
  }
  return best;
}

std::optional<VictimChoice> ChooseVictims(int32_t slots, bool spread,
                                          const std::vector<WorkerOutlook>& workers,
                                          const std::vector<VictimCandidate>& candidates) {
  if (spread) {
    std::map<std::string, int32_t> coming;
    for (const WorkerOutlook& worker : workers) coming[worker.worker_id] = Coming(worker);
    return ChooseOn(slots, coming, candidates);
  }
  std::optional<VictimChoice> best;
  for (const WorkerOutlook& worker : workers) {
    if (worker.total < slots) continue;
    auto here = ChooseOn(slots, {{worker.worker_id, Coming(worker)}}, candidates);
    if (!here.has_value()) continue;
    if (!best.has_value() || here->lost_slot_nanos < best->lost_slot_nanos) best = std::move(here);
  }
  return best;
}

}  // namespace nibble::scheduler
