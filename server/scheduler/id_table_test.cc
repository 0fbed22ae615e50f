#include "server/scheduler/id_table.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace nibble::scheduler {
namespace {

struct Thing {
  std::string id;
  int64_t value = 0;
};
struct IdOfThing {
  absl::string_view operator()(const Thing& thing) const { return thing.id; }
};
using Things = IdTable<std::unique_ptr<Thing>, IdOfThing>;

std::unique_ptr<Thing> Make(int64_t value) {
  return std::make_unique<Thing>(Thing{absl::StrCat("an identifier on the heap ", value), value});
}

TEST(IdTableTest, FindsWhatWasAddedAndNotWhatWasRemoved) {
  Things things;
  for (int64_t i = 0; i < 1000; ++i) {
    Thing& added = things.Add(Make(i));
    EXPECT_EQ(&added, things.Find(added.id));
    if (i % 2 != 0) things.Remove(added.id);  // its own string
    things.Remove("nobody");
  }
  EXPECT_EQ(things.size(), 500u);
  for (int64_t i = 0; i < 1000; ++i) {
    const Thing* const found = things.Find(Make(i)->id);
    ASSERT_EQ(found != nullptr, i % 2 == 0) << i;
    if (found != nullptr) EXPECT_EQ(found->value, i);
  }
}

TEST(IdTableTest, ThingsStayWhereTheyAre) {
  Things things;
  const Thing* const first = &things.Add(Make(0));
  for (int64_t i = 1; i < 5000; ++i) things.Add(Make(i));
  EXPECT_EQ(things.Find(first->id), first);
  EXPECT_EQ(first->value, 0);
}

TEST(IdTableTest, WhereSortsByIdentifierWhateverTheHashSays) {
  Things things;
  for (int64_t i = 9999; i >= 1000; --i) things.Add(Make(i));  // as text in the order of numbers
  int64_t next = 1000;
  for (const Thing* thing : things.Where([](const Thing& t) { return t.value % 2 == 0; })) {
    ASSERT_EQ(thing->value, next);
    next += 2;
  }
  EXPECT_EQ(next, 10'000);
}

TEST(IdTableTest, TheStringOfAnIdentifierMayBeReplacedByAnEqualOne) {
  Thing owner{"an identifier that does not fit into a small string", 1};
  IdTable<Thing*, IdOfThing> things;
  things.Add(&owner);
  std::string copy(owner.id.c_str());
  owner.id.swap(copy);
  copy.assign(copy.size(), 'x');
  std::vector<std::unique_ptr<Thing>> others;
  for (int64_t i = 0; i < 100; ++i) {  // grows: every hash is taken anew
    others.push_back(Make(i));
    things.Add(others.back().get());
  }
  EXPECT_EQ(things.Find("an identifier that does not fit into a small string"), &owner);
}

}  // namespace
}  // namespace nibble::scheduler
