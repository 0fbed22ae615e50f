// Certificates and keys from PEM files, checked before gRPC sees them: it only logs what is wrong
// with them, and then fails as if an address were in use or a peer unreachable.
#ifndef BASE_TLS_FILES_H_
#define BASE_TLS_FILES_H_

#include <string>

#include "absl/status/statusor.h"

namespace nibble {

// Paths; empty for none.
struct TlsPaths {
  // Certificates of the authorities to trust.
  std::string authority;
  // Our own certificate, followed by those between it and its authority, and its private key. Both
  // or neither.
  std::string certificate;
  std::string key;
};

// What the files of TlsPaths hold; empty where there was no path.
struct TlsContents {
  std::string authority;
  std::string certificate;
  std::string key;
};

// INVALID_ARGUMENT naming the file: not PEM, of another kind, an encrypted key, or a key that is
// not the certificate's. Errors of ReadFile as they are; files of more than 1 MiB are refused.
absl::StatusOr<TlsContents> ReadTlsFiles(const TlsPaths& paths);

}  // namespace nibble

#endif  // BASE_TLS_FILES_H_
