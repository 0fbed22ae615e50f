// What a power cut may leave of recorded file calls: everything that was synced, and of the rest
// any part, in any order, writes torn. Stricter than any one file system: syncing a file does not
// sync its name, and syncing a directory syncs only the names in it.
#ifndef WORKER_CHECKPOINT_TESTING_CRASH_IMAGES_H_
#define WORKER_CHECKPOINT_TESTING_CRASH_IMAGES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "worker/checkpoint/testing/recorded_calls.h"

namespace nibble::checkpoint {

// Files by path; directories are there where files are.
using Image = std::map<std::string, std::string>;

class CrashImages {
 public:
  // `before`: the files that were there, durable, when the recording under `directory` began.
  CrashImages(std::string directory, const Image& before, std::vector<FileCall> calls);

  size_t size() const { return calls_.size(); }
  // The last thing acknowledged within the first `calls` calls; empty for nothing.
  std::string Acknowledged(size_t calls) const;

  enum class Unsynced { kLost, kKept, kAnyPart };
  // What is left where the power is cut after so many calls.
  Image Make(size_t calls, Unsynced unsynced, std::mt19937_64& random) const;

 private:
  struct Node {
    bool is_directory = false;
    std::string contents;
    std::map<std::string, int> names;  // node by name
  };
  // A call in terms of nodes, which keep their identity under other names.
  struct Step {
    FileCall::Kind kind = FileCall::Kind::kWrite;
    int node = 0;    // written, synced, or named
    int parent = 0;  // directory whose names change
    std::string name;
    int other_node = 0;
    int other_parent = 0;
    std::string other_name;
    size_t synced_at = SIZE_MAX;  // number of the call that made it durable
  };

  int Find(const std::vector<Node>& nodes, const std::string& path) const;
  int Parent(const std::vector<Node>& nodes, const std::string& path) const;
  static void Apply(const Step& step, const FileCall& call, size_t bytes, std::vector<Node>& nodes);
  void Number(const FileCall& call, std::vector<Node>& nodes);
  void NoteSync(const Step& sync, size_t number);
  static void Collect(const std::vector<Node>& nodes, int node, const std::string& path,
                      Image* image);

  const std::string directory_;
  const std::vector<FileCall> calls_;
  std::vector<Node> start_;  // node 0 is the directory
  int node_count_ = 0;
  std::vector<Step> steps_;  // of calls_
};

}  // namespace nibble::checkpoint

#endif  // WORKER_CHECKPOINT_TESTING_CRASH_IMAGES_H_
