// Inputs that once broke a parser, each with what it did.
#ifndef TESTS_FUZZ_REGRESSIONS_H_
#define TESTS_FUZZ_REGRESSIONS_H_

#include <string>
#include <vector>

namespace nibble::fuzz {

struct Regression {
  std::string target;
  std::string input;
};
std::vector<Regression> Regressions();

}  // namespace nibble::fuzz

#endif  // TESTS_FUZZ_REGRESSIONS_H_
