// Files of tokens, and the texts that they are made of.
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/sha256.h"
#include "tests/fuzz/fuzz_target.h"
#include "worker/data/document_reader.h"
#include "worker/data/token_shards.h"
#include "worker/data/token_stream.h"

namespace nibble::fuzz {
namespace {

constexpr int64_t kVocabulary = 50'000;

const std::string& Directory() {
  static const auto* const directory = new TemporaryDirectory(*TemporaryDirectory::Make());
  return directory->path();
}

void Put(const std::string& name, absl::string_view contents) {
  std::ofstream file(JoinPath(Directory(), name), std::ios::binary | std::ios::trunc);
  file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
}

bool Read(const std::string& path, data::TokenFormat format) {
  data::SourceConfig source;
  source.path = path;
  source.format = format;
  const auto stream = data::TokenStream::Open(source, data::Split::kTrain, kVocabulary);
  if (!stream.ok()) return false;
  Require(stream->tokens() > 0, "a stream holds a token");
  int32_t last = -1;
  const absl::Status status = stream->Read(stream->tokens() - 1, 1, &last);
  // Those of our own shards are looked at only when they are read.
  Require(status.ok() ? last >= 0 && last < kVocabulary : absl::IsOutOfRange(status),
          "tokens are below the limit");
  int64_t before = -1;
  for (const int64_t start : stream->document_starts()) {
    Require(start > before && start <= stream->tokens(), "documents start in order");
    before = start;
  }
  return true;
}

bool ReadFile(absl::string_view input, data::TokenFormat format) {
  const InputFile file(input);
  return Read(file.path(), format);
}

bool RunLlmc(absl::string_view input) { return ReadFile(input, data::TokenFormat::kLlmc); }
bool RunDetected(absl::string_view input) { return ReadFile(input, data::TokenFormat::kAuto); }
bool RunRaw(absl::string_view input) {
  const bool wide = ReadFile(input, data::TokenFormat::kRawU32);
  return ReadFile(input, data::TokenFormat::kRawU16) || wide;
}

// The index's length in two bytes, the index, the tokens.
bool RunMegatron(absl::string_view input) {
  if (input.size() < 2) return false;
  const size_t length = static_cast<unsigned char>(input[0]) |
                        static_cast<size_t>(static_cast<unsigned char>(input[1])) << 8;
  input.remove_prefix(2);
  Put("m.idx", input.substr(0, length));
  Put("m.bin", input.substr(std::min(length, input.size())));
  return Read(JoinPath(Directory(), "m"), data::TokenFormat::kMegatron);
}

data::DatasetManifest ManifestOf(absl::string_view shard, int64_t tokens) {
  data::DatasetManifest manifest;
  manifest.vocab_size = 256;
  manifest.token_bytes = 2;
  manifest.tokenizer_kind = "bytes";
  manifest.tokenizer_digest = std::string(64, 'a');
  manifest.train.tokens = tokens;
  manifest.train.bytes = tokens;
  manifest.train.documents = 1;
  manifest.train.files = {{"train-00000.bin", tokens, Sha256Hex(shard)}};
  return manifest;
}

// Under a digest that fits, so that the header is looked at.
bool RunNibble(absl::string_view input) {
  const int64_t bytes = static_cast<int64_t>(input.size()) - int64_t{sizeof(data::ShardHeader)};
  Put("train-00000.bin", input);
  Put(data::kDatasetFileName,
      data::ManifestToJson(ManifestOf(input, std::max<int64_t>(1, bytes / 2))));
  return Read(Directory(), data::TokenFormat::kNibble);
}

bool RunDatasetJson(absl::string_view input) {
  const auto manifest = data::ParseManifest(input);
  if (!manifest.ok()) return false;
  const auto again = data::ParseManifest(data::ManifestToJson(*manifest));
  Require(again.ok() && data::ManifestToJson(*again) == data::ManifestToJson(*manifest),
          "a manifest survives being written");
  return true;
}

// The first byte says how the text is packed and parted.
bool RunDocuments(absl::string_view input) {
  if (input.empty()) return false;
  const int kind = static_cast<unsigned char>(input[0]);
  data::DocumentFormat format;
  format.jsonl = (kind & 1) != 0;
  format.json_field = "text";
  if ((kind & 2) != 0) format.separator = "\n\n";
  // The name tells the compression.
  const char* const suffix[] = {"", ".gz", ".zst", ".bz2"};
  const std::string name = absl::StrCat("text", suffix[kind >> 2 & 3]);
  Put(name, input.substr(1));
  auto reader = data::DocumentReader::Open(JoinPath(Directory(), name), format);
  if (!reader.ok()) return false;
  std::string document;
  for (int i = 0; i < 1000; ++i) {
    const auto more = (*reader)->Next(&document);
    if (!more.ok() || !*more) return more.ok();
  }
  return true;
}

std::string Raw(const void* data, size_t bytes) {
  return std::string(static_cast<const char*>(data), bytes);
}

std::string Tokens(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) {
    const auto token = static_cast<uint16_t>(i % 200);
    out += Raw(&token, 2);
  }
  return out;
}

std::vector<std::string> LlmcSeeds() {
  std::vector<int32_t> header(256, 0);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = 100;
  return {Raw(header.data(), 1024) + Tokens(100)};
}

std::vector<std::string> RawSeeds() { return {Tokens(100), Tokens(3) + "x"}; }

std::vector<std::string> MegatronSeeds() {
  std::string index("MMIDIDX\0\0", 9);
  const auto add = [&](auto value) { index += Raw(&value, sizeof(value)); };
  add(uint64_t{1});
  add(uint8_t{8});
  add(uint64_t{3});
  add(uint64_t{4});
  for (const int32_t length : {10, 20, 30}) add(length);
  for (const int64_t offset : {0, 20, 60}) add(offset);
  for (const int64_t document : {0, 1, 2, 3}) add(document);
  const auto size = static_cast<uint16_t>(index.size());
  return {Raw(&size, 2) + index + Tokens(60)};
}

std::vector<std::string> NibbleSeeds() {
  const data::ShardHeader header = data::MakeShardHeader(2, 100, 256);
  return {Raw(&header, sizeof(header)) + Tokens(100)};
}

std::vector<std::string> DatasetJsonSeeds() {
  return {data::ManifestToJson(ManifestOf("shard", 100)), "{\"format\": \"nibble-token-shards\"}"};
}

std::vector<std::string> DocumentSeeds() {
  // A gzip member (RFC 1952) with one stored block.
  std::string gzip("\x1f\x8b\x08\0\0\0\0\0\0\3\1\5\0\xfa\xffhello", 20);
  gzip += Raw("\x86\xa6\x10\x36\5\0\0\0", 8);
  // A zstd frame (RFC 8878) with one raw block.
  const std::string zstd("\x28\xb5\x2f\xfd\x20\5\x29\0\0hello", 14);
  return {std::string(1, '\2') + "one\n\ntwo\n\nthree",
          std::string(1, '\1') + "{\"text\": \"one\"}\n{\"text\": \"\\u00e4\"}\n", '\4' + gzip,
          '\10' + zstd, std::string(1, '\14') + "BZh91AY&SY"};
}

}  // namespace

std::vector<FuzzTarget> ShardTargets() {
  return {{"shard_llmc", RunLlmc, LlmcSeeds},
          {"shard_detected", RunDetected, LlmcSeeds},
          {"shard_megatron", RunMegatron, MegatronSeeds},
          {"shard_raw", RunRaw, RawSeeds},
          {"shard_nibble", RunNibble, NibbleSeeds},
          {"dataset_json", RunDatasetJson, DatasetJsonSeeds},
          {"documents", RunDocuments, DocumentSeeds}};
}

}  // namespace nibble::fuzz
