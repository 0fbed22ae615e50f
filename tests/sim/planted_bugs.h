// The bugs that can be switched on (base/planted.h), and how many seeds may pass before each is
// found.
#ifndef TESTS_SIM_PLANTED_BUGS_H_
#define TESTS_SIM_PLANTED_BUGS_H_

#include <string>
#include <vector>

namespace nibble::sim {

struct PlantedBug {
  const char* name;
  const char* what;
  int seeds;  // it is found among the first so many
};

const std::vector<PlantedBug>& PlantedBugs();

// Switches it on for this process; null for none. False where there is no such bug.
bool Plant(const std::string& name);

}  // namespace nibble::sim

#endif  // TESTS_SIM_PLANTED_BUGS_H_
