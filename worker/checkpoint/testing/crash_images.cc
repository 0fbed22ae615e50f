#include "worker/checkpoint/testing/crash_images.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"

namespace nibble::checkpoint {
namespace {

using Kind = FileCall::Kind;

std::string NameOf(const std::string& path) { return path.substr(path.rfind('/') + 1); }

bool ChangesNames(Kind kind) {
  return kind == Kind::kMakeDirectory || kind == Kind::kCreate || kind == Kind::kRename ||
         kind == Kind::kExchange || kind == Kind::kRemove;
}

}  // namespace

CrashImages::CrashImages(std::string directory, const Image& before, std::vector<FileCall> calls)
    : directory_(std::move(directory)), calls_(std::move(calls)) {
  start_.emplace_back().is_directory = true;
  for (const auto& [path, contents] : before) {
    int node = 0;
    const std::vector<std::string> parts =
        absl::StrSplit(path.substr(directory_.size()), '/', absl::SkipEmpty());
    for (const std::string& part : parts) {
      const auto known = start_[node].names.find(part);
      if (known != start_[node].names.end()) {
        node = known->second;
        continue;
      }
      const int next = static_cast<int>(start_.size());
      start_[node].names[part] = next;
      start_.emplace_back().is_directory = true;
      node = next;
    }
    start_[node].is_directory = false;
    start_[node].contents = contents;
  }
  std::vector<Node> nodes = start_;
  for (const FileCall& call : calls_) Number(call, nodes);
  node_count_ = static_cast<int>(nodes.size());
}

int CrashImages::Find(const std::vector<Node>& nodes, const std::string& path) const {
  int node = 0;
  const std::vector<std::string> parts =
      absl::StrSplit(path.substr(directory_.size()), '/', absl::SkipEmpty());
  for (const std::string& part : parts) {
    const auto found = nodes[node].names.find(part);
    NIBBLE_CHECK(found != nodes[node].names.end());
    node = found->second;
  }
  return node;
}

int CrashImages::Parent(const std::vector<Node>& nodes, const std::string& path) const {
  return Find(nodes, path.substr(0, path.rfind('/')));
}

// Says which nodes the call is about, as things stand when it is made, and makes it.
void CrashImages::Number(const FileCall& call, std::vector<Node>& nodes) {
  Step step;
  step.kind = call.kind;
  const size_t number = steps_.size();
  if (call.kind == Kind::kMakeDirectory || call.kind == Kind::kCreate) {
    step.parent = Parent(nodes, call.path);
    step.name = NameOf(call.path);
    step.node = static_cast<int>(nodes.size());
    nodes.emplace_back().is_directory = call.kind == Kind::kMakeDirectory;
  } else if (call.kind != Kind::kAcknowledge) {
    step.node = Find(nodes, call.path);
  }
  if (call.kind == Kind::kRename || call.kind == Kind::kExchange || call.kind == Kind::kRemove) {
    step.parent = Parent(nodes, call.path);
    step.name = NameOf(call.path);
  }
  if (call.kind == Kind::kRename || call.kind == Kind::kExchange) {
    step.other_parent = Parent(nodes, call.other);
    step.other_name = NameOf(call.other);
    if (call.kind == Kind::kExchange) step.other_node = Find(nodes, call.other);
  }
  if (call.kind == Kind::kSync) NoteSync(step, number);
  Apply(step, call, call.data.size(), nodes);
  steps_.push_back(std::move(step));
}

void CrashImages::NoteSync(const Step& sync, size_t number) {
  for (Step& earlier : steps_) {
    if (earlier.synced_at != SIZE_MAX) continue;
    const bool data = earlier.kind == Kind::kWrite && earlier.node == sync.node;
    const bool name = ChangesNames(earlier.kind) && earlier.parent == sync.node;
    if (data || name) earlier.synced_at = number;
  }
}

void CrashImages::Apply(const Step& step, const FileCall& call, size_t bytes,
                        std::vector<Node>& nodes) {
  switch (step.kind) {
    case Kind::kMakeDirectory:
    case Kind::kCreate:
      nodes[step.parent].names[step.name] = step.node;
      break;
    case Kind::kWrite: {
      std::string& contents = nodes[step.node].contents;
      const size_t end = static_cast<size_t>(call.offset) + call.data.size();
      // The size may be there and the data not.
      if (contents.size() < end) contents.resize(end);
      contents.replace(static_cast<size_t>(call.offset), bytes, call.data, 0, bytes);
      break;
    }
    case Kind::kRename:
      nodes[step.parent].names.erase(step.name);
      nodes[step.other_parent].names[step.other_name] = step.node;
      break;
    case Kind::kExchange:
      nodes[step.parent].names[step.name] = step.other_node;
      nodes[step.other_parent].names[step.other_name] = step.node;
      break;
    case Kind::kRemove:
      nodes[step.parent].names.erase(step.name);
      break;
    case Kind::kSync:
    case Kind::kAcknowledge:
      break;
  }
}

std::string CrashImages::Acknowledged(size_t calls) const {
  std::string last;
  for (size_t i = 0; i < calls; ++i) {
    if (calls_[i].kind == Kind::kAcknowledge) last = calls_[i].data;
  }
  return last;
}

Image CrashImages::Make(size_t calls, Unsynced unsynced, std::mt19937_64& random) const {
  std::vector<Node> nodes = start_;
  nodes.resize(static_cast<size_t>(node_count_));
  for (size_t i = 0; i < calls; ++i) {
    if (calls_[i].kind == Kind::kMakeDirectory) nodes[steps_[i].node].is_directory = true;
  }
  for (size_t i = 0; i < calls; ++i) {
    size_t bytes = calls_[i].data.size();
    const bool durable = steps_[i].synced_at < calls;
    if (!durable && unsynced == Unsynced::kLost) continue;
    if (!durable && unsynced == Unsynced::kAnyPart) {
      if (random() % 2 == 0) continue;
      if (bytes > 0 && random() % 3 == 0) bytes = random() % bytes;
    }
    Apply(steps_[i], calls_[i], bytes, nodes);
  }
  Image image;
  Collect(nodes, 0, directory_, &image);
  return image;
}

void CrashImages::Collect(const std::vector<Node>& nodes, int node, const std::string& path,
                          Image* image) {
  if (!nodes[node].is_directory) {
    (*image)[path] = nodes[node].contents;
    return;
  }
  for (const auto& [name, child] : nodes[node].names) {
    Collect(nodes, child, absl::StrCat(path, "/", name), image);
  }
}

}  // namespace nibble::checkpoint
