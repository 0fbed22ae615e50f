#include "tests/sim/rows.h"

namespace nibble::sim {

void Rows::Apply(const scheduler::Transaction& t) {
  before.clear();
  for (const auto& job : t.jobs) {
    const auto old = jobs.find(job.job_id);
    if (old != jobs.end()) before.emplace(job.job_id, old->second);
    jobs[job.job_id] = job;
  }
  for (const auto& checkpoint : t.checkpoints) {
    checkpoints[checkpoint.job_id][checkpoint.step] = checkpoint;
  }
  for (const auto& checkpoint : t.removed_checkpoints) {
    checkpoints[checkpoint.job_id].erase(checkpoint.step);
  }
  for (const auto& key : t.keys) keys[key.key] = key;
  for (const std::string& job_id : t.deleted_jobs) {
    const auto job = jobs.find(job_id);
    if (job == jobs.end()) continue;
    before.emplace(job_id, job->second);
    keys.erase(job->second.document->request_key);
    jobs.erase(job);
    checkpoints.erase(job_id);
    deleted.insert(job_id);
  }
  purges.insert(t.purges.begin(), t.purges.end());
  for (const auto& purge : t.finished_purges) purges.erase(purge);
  for (const auto& worker : t.workers) workers[worker.worker_id] = worker;
  for (const std::string& worker : t.removed_workers) workers.erase(worker);
}

const scheduler::JobRecord* Rows::Find(const std::string& job_id) const {
  const auto found = jobs.find(job_id);
  return found == jobs.end() ? nullptr : &found->second;
}

bool Rows::IsLive(const scheduler::AttemptId& attempt, const std::string& worker) const {
  const scheduler::JobRecord* const job = Find(attempt.job_id);
  if (job == nullptr || !scheduler::HasLiveAttempt(job->state) || job->attempt != attempt.attempt) {
    return false;
  }
  for (const auto& share : job->placement) {
    if (share.worker_id == worker) return true;
  }
  return false;
}

const scheduler::CheckpointRecord* Rows::Newest(const std::string& job_id) const {
  const auto found = checkpoints.find(job_id);
  if (found == checkpoints.end() || found->second.empty()) return nullptr;
  return &found->second.rbegin()->second;
}

}  // namespace nibble::sim
