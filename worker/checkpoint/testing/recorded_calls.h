// Records what this process does to the files under one directory, at the C library's door: whoever
// calls open, write, fsync, rename, mkdir or unlink, code under test or a library, is heard. For
// tests; link recorded_calls.cc into the test program itself.
#ifndef WORKER_CHECKPOINT_TESTING_RECORDED_CALLS_H_
#define WORKER_CHECKPOINT_TESTING_RECORDED_CALLS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::checkpoint {

struct FileCall {
  enum class Kind {
    kMakeDirectory,
    kCreate,       // of an empty file
    kWrite,        // `data` at `offset`
    kSync,         // of a file or a directory
    kRename,       // path -> other, replacing it
    kExchange,     // path <-> other
    kRemove,       // of a file or an empty directory
    kAcknowledge,  // the caller was told that `data` is durable
  };
  Kind kind = Kind::kWrite;
  std::string path;
  std::string other;
  int64_t offset = 0;
  std::string data;
};

// From here until StopRecording, for paths under `directory` (absolute, without symbolic links).
// Not thread-safe against calls under way.
void StartRecording(const std::string& directory);
std::vector<FileCall> StopRecording();
// Adds a kAcknowledge.
void RecordAcknowledgement(const std::string& what);

}  // namespace nibble::checkpoint

#endif  // WORKER_CHECKPOINT_TESTING_RECORDED_CALLS_H_
