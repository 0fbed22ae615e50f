#include "base/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble {
namespace {

constexpr int64_t kMaxPemBytes = 1 << 20;

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using CertificatePtr = std::unique_ptr<X509, Free>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Free>;

std::unique_ptr<BIO, Free> Reader(const std::string& pem) {
  return std::unique_ptr<BIO, Free>(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Instead of OpenSSL's own, which asks on the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

// The first certificate; null where there is none or any is damaged.
CertificatePtr ReadCertificates(const std::string& pem) {
  const auto reader = Reader(pem);
  CertificatePtr first;
  for (;;) {
    ERR_clear_error();
    CertificatePtr next(PEM_read_bio_X509(reader.get(), nullptr, NoPassword, nullptr));
    if (next == nullptr) {
      const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
      ERR_clear_error();
      return at_end ? std::move(first) : nullptr;
    }
    if (first == nullptr) first = std::move(next);
  }
}

absl::Status NoCertificate(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, " is not a certificate; allowed: certificates in PEM form"));
}

absl::Status CheckOwn(const TlsPaths& paths, const TlsContents& contents) {
  const CertificatePtr certificate = ReadCertificates(contents.certificate);
  if (certificate == nullptr) return NoCertificate(paths.certificate);
  const auto reader = Reader(contents.key);
  const KeyPtr key(PEM_read_bio_PrivateKey(reader.get(), nullptr, NoPassword, nullptr));
  const bool fits = key != nullptr && X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        paths.key, " is not a private key; allowed: one in PEM form without a password"));
  }
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat(paths.key, " is not the key of the certificate in ", paths.certificate));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsContents> ReadTlsFiles(const TlsPaths& paths) {
  TlsContents contents;
  if (!paths.authority.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(contents.authority, ReadFile(paths.authority, kMaxPemBytes));
    if (ReadCertificates(contents.authority) == nullptr) return NoCertificate(paths.authority);
  }
  if (!paths.certificate.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(contents.certificate, ReadFile(paths.certificate, kMaxPemBytes));
    NIBBLE_ASSIGN_OR_RETURN(contents.key, ReadFile(paths.key, kMaxPemBytes));
    NIBBLE_RETURN_IF_ERROR(CheckOwn(paths, contents));
  }
  return contents;
}

}  // namespace nibble
