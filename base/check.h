// Assertions for bugs in our own code, on in every build. Anything that input, files, peers or the
// operating system can cause is an absl::Status instead.
#ifndef BASE_CHECK_H_
#define BASE_CHECK_H_

namespace nibble {

// Writes "CHECK failed: <condition> at <file>:<line>" to standard error and aborts.
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);

}  // namespace nibble

#define NIBBLE_CHECK(condition) \
  ((condition) ? (void)0 : ::nibble::CheckFailed(#condition, __FILE__, __LINE__))

#endif  // BASE_CHECK_H_
