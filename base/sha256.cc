#include "base/sha256.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "base/check.h"

namespace nibble {

struct Sha256::Context {
  EVP_MD_CTX* md = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(md); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  NIBBLE_CHECK(EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::Update(absl::string_view data) {
  NIBBLE_CHECK(EVP_DigestUpdate(context_->md, data.data(), data.size()) == 1);
}

std::string Sha256::HexDigest() {
  unsigned char digest[32];
  unsigned int length = 0;
  NIBBLE_CHECK(EVP_DigestFinal_ex(context_->md, digest, &length) == 1 && length == 32);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), 32));
}

std::string Sha256Hex(absl::string_view data) {
  Sha256 sha;
  sha.Update(data);
  return sha.HexDigest();
}

}  // namespace nibble
