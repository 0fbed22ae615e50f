// Tells watchers that something changed: a topic is a string, and a subscriber's callback runs
// after every publication on its topic. It says only that there is something to look at, so a
// subscriber that looks late loses nothing.
#ifndef SERVER_COORDINATOR_CHANGE_FEED_H_
#define SERVER_COORDINATOR_CHANGE_FEED_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/mutex.h"

namespace nibble::coordinator {

// Any change of any job.
inline constexpr char kAllJobsTopic[] = "jobs";
std::string JobTopic(absl::string_view job_id);
// New rows or lines of a job.
std::string MetricsTopic(absl::string_view job_id);
std::string LogsTopic(absl::string_view job_id);

// Thread-safe.
class ChangeFeed {
 public:
  // Ends when destroyed; the callback does not run afterwards, but may still be running elsewhere.
  class Subscription {
   public:
    ~Subscription();
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;

   private:
    friend class ChangeFeed;
    Subscription(ChangeFeed* feed, std::vector<std::string> topics, uint64_t id)
        : feed_(feed), topics_(std::move(topics)), id_(id) {}
    ChangeFeed* feed_;
    std::vector<std::string> topics_;
    uint64_t id_;
  };

  // `callback` must be quick and must not block; it runs on the publisher's thread. What it uses
  // must stay valid for as long as it may run: hold it by weak_ptr.
  [[nodiscard]] std::unique_ptr<Subscription> Subscribe(const std::vector<std::string>& topics,
                                                        std::function<void()> callback);
  void Publish(absl::string_view topic);

 private:
  using Callback = std::shared_ptr<std::function<void()>>;
  Mutex mutex_;
  uint64_t next_id_ GUARDED_BY(mutex_) = 1;
  std::map<std::string, std::map<uint64_t, Callback>, std::less<>> topics_ GUARDED_BY(mutex_);
};

}  // namespace nibble::coordinator

#endif  // SERVER_COORDINATOR_CHANGE_FEED_H_
