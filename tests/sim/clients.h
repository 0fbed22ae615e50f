// Simulated users: submit, pause, resume, cancel, update, delete, drain at random, and try again by
// request_id until they have an answer.
#ifndef TESTS_SIM_CLIENTS_H_
#define TESTS_SIM_CLIENTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/daemon.h"
#include "tests/sim/daemon_link.h"
#include "tests/sim/network.h"

namespace nibble::sim {

class Clients {
 public:
  Clients(Site* site, Plans* plans, const Checkers* checkers, Network* network, FindDaemon daemon,
          int workers);

  void Submit();
  // A short job of so many slots, which nothing happens to.
  void SubmitPlain(int32_t slots);
  // Something at random about a job or a worker.
  void Act();
  // Resumes what is paused and undrains what is drained, so that everything can end.
  void Release();
  // Whether every call has its answer.
  bool idle() const { return open_ == 0; }

 private:
  struct Op {
    ClientCall call;
    int gives_up_after = INT32_MAX;
    bool over = false;
  };
  void Issue(ClientCall call);
  void Try(const std::shared_ptr<Op>& op);
  void Answered(const std::shared_ptr<Op>& op, const coordinator::Outcome& outcome);
  void TryAgain(const std::shared_ptr<Op>& op);
  void Close(Op& op);
  std::shared_ptr<scheduler::JobDocument> NewDocument();
  std::string AnyJob();

  Site* const site_;
  World* const world_;
  Plans* const plans_;
  const Checkers* const checkers_;
  Network* const network_;
  const FindDaemon daemon_;
  const int workers_;
  const Life life_ = NewLife();
  int open_ = 0;
  int64_t next_name_ = 1;
  bool releasing_ = false;
  std::vector<std::shared_ptr<const scheduler::JobDocument>> submitted_;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_CLIENTS_H_
