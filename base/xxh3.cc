#include "base/xxh3.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/check.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // the same functions, which choose instructions when they run
#else
#include <xxhash.h>
#endif

namespace nibble {
namespace {

constexpr size_t kDigestBytes = sizeof(XXH128_canonical_t);
constexpr unsigned kMaxThreads = 16;  // more than any machine's memory keeps busy

void WriteDigest(XXH128_hash_t hash, char* to) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::memcpy(to, canonical.digest, kDigestBytes);
}

std::string HexOfDigests(const std::string& digests) {
  char whole[kDigestBytes];
  WriteDigest(XXH3_128bits(digests.data(), digests.size()), whole);
  return absl::BytesToHexString(absl::string_view(whole, kDigestBytes));
}

XXH3_state_s* NewState() {
  XXH3_state_t* const state = XXH3_createState();
  NIBBLE_CHECK(state != nullptr);
  return state;
}

}  // namespace

Xxh3::Xxh3() : state_(NewState()) { XXH3_64bits_reset(state_); }
Xxh3::~Xxh3() { XXH3_freeState(state_); }

void Xxh3::Update(absl::string_view data) { XXH3_64bits_update(state_, data.data(), data.size()); }
uint64_t Xxh3::Value() const { return XXH3_64bits_digest(state_); }

uint64_t Xxh3Of(absl::string_view data) { return XXH3_64bits(data.data(), data.size()); }

PieceDigest::PieceDigest() : state_(NewState()) { XXH3_128bits_reset(state_); }
PieceDigest::~PieceDigest() { XXH3_freeState(state_); }

void PieceDigest::Update(absl::string_view data) {
  while (!data.empty()) {
    const absl::string_view part = data.substr(0, kPieceBytes - filled_);
    XXH3_128bits_update(state_, part.data(), part.size());
    filled_ += part.size();
    data.remove_prefix(part.size());
    if (filled_ < kPieceBytes) continue;
    digests_.resize(digests_.size() + kDigestBytes);
    WriteDigest(XXH3_128bits_digest(state_), &digests_[digests_.size() - kDigestBytes]);
    XXH3_128bits_reset(state_);
    filled_ = 0;
  }
}

std::string PieceDigest::HexDigest() {
  if (filled_ > 0) {
    digests_.resize(digests_.size() + kDigestBytes);
    WriteDigest(XXH3_128bits_digest(state_), &digests_[digests_.size() - kDigestBytes]);
  }
  return HexOfDigests(digests_);
}

std::string PieceDigestHex(absl::string_view data, int threads) {
  return PieceDigestHex(data, threads, [](size_t, absl::string_view) {});
}

std::string PieceDigestHex(absl::string_view data, int threads,
                           absl::FunctionRef<void(size_t offset, absl::string_view part)> use) {
  const size_t pieces = (data.size() + PieceDigest::kPieceBytes - 1) / PieceDigest::kPieceBytes;
  std::string digests(pieces * kDigestBytes, '\0');
  std::atomic<size_t> next{0};
  const auto digest = [&] {
    XXH3_state_t* const state = NewState();
    for (size_t i = next++; i < pieces; i = next++) {
      XXH3_128bits_reset(state);
      const size_t begin = i * PieceDigest::kPieceBytes;
      const size_t end = std::min(begin + PieceDigest::kPieceBytes, data.size());
      for (size_t offset = begin; offset < end; offset += kPartBytes) {
        const absl::string_view part = data.substr(offset, std::min(kPartBytes, end - offset));
        XXH3_128bits_update(state, part.data(), part.size());
        use(offset, part);
      }
      WriteDigest(XXH3_128bits_digest(state), &digests[i * kDigestBytes]);
    }
    XXH3_freeState(state);
  };
  const unsigned wanted =
      threads > 0 ? static_cast<unsigned>(threads) : std::thread::hardware_concurrency();
  const size_t used = std::min<size_t>(pieces, std::min(wanted, kMaxThreads));
  std::vector<std::thread> others;
  for (size_t i = 1; i < used; ++i) others.emplace_back(digest);
  digest();
  for (std::thread& other : others) other.join();
  return HexOfDigests(digests);
}

}  // namespace nibble
