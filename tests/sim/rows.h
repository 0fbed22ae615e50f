// The daemon's rows as its transactions left them, kept apart from the store under test, and what
// the checkers are told. The same rules as store.h, written once more.
#ifndef TESTS_SIM_ROWS_H_
#define TESTS_SIM_ROWS_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "server/scheduler/effects.h"
#include "server/scheduler/types.h"

namespace nibble::sim {

struct Rows {
  std::map<std::string, scheduler::JobRecord> jobs;
  // By job and step.
  std::map<std::string, std::map<int64_t, scheduler::CheckpointRecord>> checkpoints;
  std::map<std::string, scheduler::IdempotencyRecord> keys;
  std::set<scheduler::PurgeRecord> purges;
  std::map<std::string, scheduler::WorkerRecord> workers;
  std::set<std::string> deleted;

  // Rows that the last Apply replaced: as they were before.
  std::map<std::string, scheduler::JobRecord> before;

  void Apply(const scheduler::Transaction& transaction);
  // Null for none.
  const scheduler::JobRecord* Find(const std::string& job_id) const;
  // Whether that is the job's live attempt, with slots on the worker.
  bool IsLive(const scheduler::AttemptId& attempt, const std::string& worker) const;
  // The newest committed checkpoint; null for none.
  const scheduler::CheckpointRecord* Newest(const std::string& job_id) const;
};

}  // namespace nibble::sim

#endif  // TESTS_SIM_ROWS_H_
