#include "server/coordinator/change_feed.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble::coordinator {

std::string JobTopic(absl::string_view job_id) { return absl::StrCat("job/", job_id); }
std::string MetricsTopic(absl::string_view job_id) { return absl::StrCat("metrics/", job_id); }
std::string LogsTopic(absl::string_view job_id) { return absl::StrCat("logs/", job_id); }

ChangeFeed::Subscription::~Subscription() {
  MutexLock lock(feed_->mutex_);
  for (const std::string& topic : topics_) {
    const auto found = feed_->topics_.find(topic);
    if (found == feed_->topics_.end()) continue;
    found->second.erase(id_);
    if (found->second.empty()) feed_->topics_.erase(found);
  }
}

std::unique_ptr<ChangeFeed::Subscription> ChangeFeed::Subscribe(
    const std::vector<std::string>& topics, std::function<void()> callback) {
  auto shared = std::make_shared<std::function<void()>>(std::move(callback));
  MutexLock lock(mutex_);
  const uint64_t id = next_id_++;
  for (const std::string& topic : topics) topics_[topic][id] = shared;
  return std::unique_ptr<Subscription>(new Subscription(this, topics, id));
}

void ChangeFeed::Publish(absl::string_view topic) {
  std::vector<Callback> callbacks;
  {
    MutexLock lock(mutex_);
    const auto found = topics_.find(std::string(topic));
    if (found == topics_.end()) return;
    for (const auto& [id, callback] : found->second) callbacks.push_back(callback);
  }
  // Outside the lock: a callback may subscribe or unsubscribe.
  for (const Callback& callback : callbacks) (*callback)();
}

}  // namespace nibble::coordinator
