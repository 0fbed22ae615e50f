// Files of tokenizers. What loads must encode a text, and decode what it encoded.
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/fuzz_target.h"
#include "worker/data/byte_alphabet.h"
#include "worker/data/tokenizer.h"

namespace nibble::fuzz {
namespace {

using Loaded = absl::StatusOr<std::unique_ptr<data::Tokenizer>>;

bool Exercise(const Loaded& loaded) {
  if (!loaded.ok()) return false;
  data::Tokenizer& tokenizer = **loaded;
  std::vector<int32_t> ids;
  tokenizer.EncodeAll("The quick  brown f\xc3\xb6x\n\xff 42 abc", &ids);
  for (const int32_t id : ids) {
    Require(id >= 0 && id < tokenizer.vocab_size(), "ids are below the size of the vocabulary");
  }
  std::string text;
  Require(tokenizer.Decode(ids, &text).ok(), "what was encoded can be decoded");
  Require(!tokenizer.Decode({tokenizer.vocab_size()}, &text).ok(), "but nothing beyond");
  return true;
}

// ---- GPT-2: vocab.json, NUL, merges.txt ----

bool RunGpt2(absl::string_view input) {
  const size_t end = std::min(input.find('\0'), input.size());
  const InputFile vocab(input.substr(0, end));
  const InputFile merges(input.substr(std::min(end + 1, input.size())));
  return Exercise(data::LoadBpeTokenizer({vocab.path(), merges.path()}));
}

std::vector<std::string> Gpt2Seeds() {
  const data::ByteAlphabet alphabet;
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) {
    vocab[alphabet.ToText(std::string(1, static_cast<char>(byte)))] = byte;
  }
  vocab["th"] = 256;
  vocab["the"] = 257;
  vocab["<|endoftext|>"] = 258;
  return {absl::StrCat(vocab.dump(), absl::string_view("\0", 1), "#version: 0.2\nt h\nth e\n"),
          absl::StrCat("{\"a\": 0, \"a\": 1}", absl::string_view("\0", 1), "a a\n")};
}

// ---- tiktoken: base64 of a token, space, rank ----

bool RunTiktoken(absl::string_view input) {
  const InputFile file(input);
  return Exercise(data::LoadTiktokenTokenizer(file.path()));
}

std::vector<std::string> TiktokenSeeds() {
  std::string file;
  int rank = 0;
  const auto add = [&](absl::string_view token) {
    absl::StrAppend(&file, absl::Base64Escape(token), " ", rank++, "\n");
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (const char* token : {"th", "the", " the", "qu", "br"}) add(token);
  return {file, "IQ== 0\nIg== 1\n"};
}

// ---- llama2.c: longest token, then score, length and bytes of each ----

bool RunLlama2c(absl::string_view input) {
  const InputFile file(input);
  return Exercise(data::LoadLlama2cTokenizer(file.path()));
}

std::vector<std::string> Llama2cSeeds() {
  std::string file("\7\0\0\0", 4);
  const auto add = [&](absl::string_view token, float score) {
    const auto length = static_cast<int32_t>(token.size());
    file.append(reinterpret_cast<const char*>(&score), 4);
    file.append(reinterpret_cast<const char*>(&length), 4);
    file.append(token.data(), token.size());
  };
  for (const char* token : {"<unk>", "\n<s>\n", "\n</s>\n"}) add(token, 0);
  for (int byte = 0; byte < 256; ++byte) {
    const char text[] = {static_cast<char>(byte), '\0'};
    add(byte == 0 ? absl::string_view("<0x00>") : absl::string_view(text, 1), 0);
  }
  for (const char* token : {" ", "t", "h", "e", "th", "the", " the"}) add(token, -1);
  return {file};
}

// ---- SentencePiece: a protobuf message, by hand ----

std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out.push_back(static_cast<char>(value | 128));
  out.push_back(static_cast<char>(value));
  return out;
}
std::string Bytes(int field, absl::string_view payload) {
  return absl::StrCat(Varint(static_cast<uint64_t>(field) << 3 | 2), Varint(payload.size()),
                      payload);
}
std::string Number(int field, uint64_t value) {
  return Varint(static_cast<uint64_t>(field) << 3) + Varint(value);
}
std::string Piece(absl::string_view text, float score, int type) {
  std::string bits(4, '\0');
  std::memcpy(bits.data(), &score, 4);
  return Bytes(1,
               absl::StrCat(Bytes(1, text), "\x15", bits, Number(3, static_cast<uint64_t>(type))));
}

bool RunSentencePiece(absl::string_view input) {
  const InputFile file(input);
  return Exercise(data::LoadSentencePieceTokenizer(file.path()));
}

std::vector<std::string> SentencePieceSeeds() {
  std::vector<std::string> seeds;
  for (const uint64_t model_type : {1, 2}) {  // unigram, BPE
    std::string model = Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("</s>", 0, 3);
    for (int byte = 0; byte < 256; ++byte) {
      constexpr char kHex[] = "0123456789ABCDEF";
      model += Piece(absl::StrCat("<0x", std::string(1, kHex[byte >> 4]),
                                  std::string(1, kHex[byte & 15]), ">"),
                     0, 6);
    }
    for (const char* text : {"\xe2\x96\x81", "t", "h", "e", "th", "the", "\xe2\x96\x81the"}) {
      model += Piece(text, -1, 1);
    }
    model += Piece("<user>", 0, 4);
    // TrainerSpec: model type, byte fallback, ids; NormalizerSpec: name, flags, and a charsmap of
    // one rule, as a double array of four units.
    model += Bytes(
        2, Number(3, model_type) + Number(35, 1) + Number(40, 0) + Number(41, 1) + Number(42, 2));
    const std::string units("\0\4\0\0\0\1\0\0\1\0\0\x80\0\0\0\0", 16);
    const std::string charsmap =
        absl::StrCat(absl::string_view("\x10\0\0\0", 4), units, absl::string_view("a\0", 2));
    model += Bytes(
        3, Bytes(1, "nfkc") + Bytes(2, charsmap) + Number(3, 1) + Number(4, 1) + Number(5, 1));
    seeds.push_back(model);
  }
  return seeds;
}

}  // namespace

std::vector<FuzzTarget> TokenizerTargets() {
  return {{"tokenizer_gpt2", RunGpt2, Gpt2Seeds},
          {"tokenizer_tiktoken", RunTiktoken, TiktokenSeeds},
          {"tokenizer_llama2c", RunLlama2c, Llama2cSeeds},
          {"tokenizer_sentencepiece", RunSentencePiece, SentencePieceSeeds}};
}

}  // namespace nibble::fuzz
