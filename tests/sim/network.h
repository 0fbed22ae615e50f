// The simulated network between machines: delay, loss, duplication, reordering, partition.
#ifndef TESTS_SIM_NETWORK_H_
#define TESTS_SIM_NETWORK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "tests/sim/world.h"

namespace nibble::sim {

class Network {
 public:
  explicit Network(World* world) : world_(world) {}

  void set_faults(bool on) { faults_ = on; }
  // The machine hears nobody and is heard by nobody until then.
  void CutOff(const std::string& machine, int64_t nanos);
  void Heal() { cut_until_.clear(); }

  // Delivers to the process that holds `receiver`: once, never, or twice; soon or late; in any
  // order.
  void Send(const std::string& machine, const std::weak_ptr<char>& receiver,
            const std::function<void()>& deliver);
  // Delivers exactly once, when there is no cut: the end of a connection is noticed in the end.
  void SendSurely(const std::string& machine, const std::weak_ptr<char>& receiver,
                  const std::function<void()>& deliver);
  // As Send over one connection: exactly once and in order, or false where the connection breaks.
  // `*last_at` is the connection's.
  bool SendInOrder(const std::string& machine, const std::weak_ptr<char>& receiver,
                   int64_t* last_at, const std::function<void()>& deliver);

 private:
  int64_t CutFor(const std::string& machine) const;
  int64_t Delay();

  World* const world_;
  bool faults_ = true;
  std::map<std::string, int64_t> cut_until_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_NETWORK_H_
