// What this binary is.
#ifndef BASE_VERSION_H_
#define BASE_VERSION_H_

namespace nibble {

// Semantic version of the release.
inline constexpr char kVersion[] = NIBBLE_VERSION;
// Git commit it was configured from, or "unknown".
inline constexpr char kCommit[] = NIBBLE_COMMIT;

}  // namespace nibble

#endif  // BASE_VERSION_H_
