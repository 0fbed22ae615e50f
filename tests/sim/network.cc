#include "tests/sim/network.h"

#include <algorithm>

namespace nibble::sim {

void Network::CutOff(const std::string& machine, int64_t nanos) {
  int64_t& until = cut_until_[machine];
  until = std::max(until, world_->now() + nanos);
}

int64_t Network::CutFor(const std::string& machine) const {
  const auto found = cut_until_.find(machine);
  return found == cut_until_.end() ? 0 : std::max<int64_t>(found->second - world_->now(), 0);
}

int64_t Network::Delay() {
  if (faults_ && world_->Chance(40)) {
    world_->Reached("network: delayed");
    return world_->Between(10, 4000) * kMillis;
  }
  return world_->Between(100'000, 3'000'000);
}

void Network::Send(const std::string& machine, const std::weak_ptr<char>& receiver,
                   const std::function<void()>& deliver) {
  const int64_t cut = CutFor(machine);
  // What a cut holds up is either lost or sent again by the transport when the cut is over.
  if ((cut > 0 && world_->Chance(500)) || (faults_ && world_->Chance(15))) {
    return world_->Reached("network: lost");
  }
  if (cut > 0) world_->Reached("network: held by a cut");
  world_->At(cut + Delay(), receiver, deliver);
  if (faults_ && world_->Chance(20)) {
    world_->Reached("network: duplicated");
    world_->At(cut + world_->Between(1, 6000) * kMillis, receiver, deliver);
  }
}

void Network::SendSurely(const std::string& machine, const std::weak_ptr<char>& receiver,
                         const std::function<void()>& deliver) {
  world_->At(CutFor(machine) + Delay(), receiver, deliver);
}

bool Network::SendInOrder(const std::string& machine, const std::weak_ptr<char>& receiver,
                          int64_t* last_at, const std::function<void()>& deliver) {
  const int64_t cut = CutFor(machine);
  if ((cut > 0 && world_->Chance(300)) || (faults_ && world_->Chance(10))) {
    world_->Reached("network: stream broken");
    return false;
  }
  *last_at = std::max(*last_at, world_->now() + cut + Delay());
  world_->At(*last_at - world_->now(), receiver, deliver);
  return true;
}

}  // namespace nibble::sim
