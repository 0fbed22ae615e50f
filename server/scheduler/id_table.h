// Things that carry an identifier of their own, found by it in constant time. A hash's order
// differs from one process to the next, so there is none to iterate in: Where sorts, and what Visit
// does must come to the same in every order.
#ifndef SERVER_SCHEDULER_ID_TABLE_H_
#define SERVER_SCHEDULER_ID_TABLE_H_

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "base/check.h"

namespace nibble::scheduler {

// `Pointer` is a std::unique_ptr, or a plain pointer to what others own; things stay where they
// are. IdOf()(thing) is a thing's identifier: it must not change while the thing is in the table,
// though the string that holds it may be replaced by an equal one.
template <typename Pointer, typename IdOf>
class IdTable {
 public:
  using Thing = typename std::pointer_traits<Pointer>::element_type;

  // Null where there is none.
  Thing* Find(absl::string_view id) {
    const auto found = things_.find(id);
    return found == things_.end() ? nullptr : &**found;
  }
  const Thing* Find(absl::string_view id) const {
    const auto found = things_.find(id);
    return found == things_.end() ? nullptr : &**found;
  }
  // There is one.
  Thing& At(absl::string_view id) {
    Thing* const thing = Find(id);
    NIBBLE_CHECK(thing != nullptr);
    return *thing;
  }
  const Thing& At(absl::string_view id) const { return const_cast<IdTable*>(this)->At(id); }

  // There is none of its identifier yet.
  Thing& Add(Pointer pointer) {
    Thing& thing = *pointer;
    NIBBLE_CHECK(things_.insert(std::move(pointer)).second);
    return thing;
  }
  // No effect where there is none. `id` may be the thing's own string.
  void Remove(absl::string_view id) {
    const auto found = things_.find(id);
    if (found != things_.end()) things_.erase(found);
  }
  // Makes room for so many at once.
  void Reserve(size_t count) { things_.reserve(count); }
  size_t size() const { return things_.size(); }

  // Those for which `wanted` holds, by identifier.
  template <typename Wanted>
  std::vector<const Thing*> Where(Wanted wanted) const {
    std::vector<const Thing*> chosen;
    for (const Pointer& pointer : things_) {
      const Thing& thing = *pointer;
      if (wanted(thing)) chosen.push_back(&thing);
    }
    std::sort(chosen.begin(), chosen.end(),
              [](const Thing* a, const Thing* b) { return IdOf()(*a) < IdOf()(*b); });
    return chosen;
  }
  // In no order: for sums.
  template <typename F>
  void Visit(F visit) const {
    for (const Pointer& pointer : things_) visit(static_cast<const Thing&>(*pointer));
  }

 private:
  static absl::string_view IdIn(absl::string_view id) { return id; }
  static absl::string_view IdIn(const Pointer& pointer) { return IdOf()(*pointer); }
  struct Hash {
    using is_transparent = void;
    template <typename T>
    size_t operator()(const T& thing) const {
      return absl::Hash<absl::string_view>()(IdIn(thing));
    }
  };
  struct Equal {
    using is_transparent = void;
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return IdIn(a) == IdIn(b);
    }
  };

  absl::flat_hash_set<Pointer, Hash, Equal> things_;
};

}  // namespace nibble::scheduler

#endif  // SERVER_SCHEDULER_ID_TABLE_H_
