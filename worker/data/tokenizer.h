// Text to token ids and back.
#ifndef WORKER_DATA_TOKENIZER_H_
#define WORKER_DATA_TOKENIZER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::data {

// Not thread-safe (it caches): one object a thread.
class Tokenizer {
 public:
  // Hears of `count` ids; an error status ends the encoding.
  using Sink = std::function<absl::Status(const int32_t* ids, int64_t count)>;

  virtual ~Tokenizer() = default;

  // Encodes one document; the separator is not added. Ids come in order, in batches, so memory does
  // not grow with the text. Returns the bytes of text that the ids stand for: NUL bytes dropped
  // (bytes) or invalid UTF-8 replaced (gpt2) make it differ from text.size(). Errors: the sink's.
  virtual absl::StatusOr<int64_t> Encode(absl::string_view text, const Sink& sink) = 0;

  // Appends the text of `ids`, read from the start of a document: decoding what Encode gave gives
  // the text back. OUT_OF_RANGE where an id is not below vocab_size().
  virtual absl::Status Decode(const std::vector<int32_t>& ids, std::string* text) const = 0;

  // "bytes", "gpt2", "tiktoken", "sentencepiece", "llama2c" or "huggingface".
  virtual absl::string_view kind() const = 0;
  virtual int32_t vocab_size() const = 0;
  // The id between documents; no text encodes to it.
  virtual int32_t separator() const = 0;
  // What stands before and after a text where a model is asked to go on with it; -1: nothing does.
  virtual int32_t bos_id() const { return -1; }
  virtual int32_t eos_id() const { return separator(); }
  // SHA-256, in hex, of what makes the ids: two tokenizers of one digest encode alike.
  virtual std::string digest() const = 0;
  // NUL bytes dropped so far.
  virtual int64_t dropped_nul_bytes() const { return 0; }

  // Appends all ids of `text`.
  void EncodeAll(absl::string_view text, std::vector<int32_t>* ids);
};

// Every byte is its own id; vocabulary 256. Byte 0 separates documents, so NUL bytes of the text
// are dropped.
std::unique_ptr<Tokenizer> MakeByteTokenizer();

// The separator of byte-level encodings; in a text it is text.
inline constexpr absl::string_view kSeparatorToken = "<|endoftext|>";

struct BpeFiles {
  std::string vocab;   // vocab.json: {"token": id, ...} in GPT-2's byte-to-character alphabet
  std::string merges;  // merges.txt: two tokens a line, best first
};

// GPT-2's byte-level byte-pair encoding (Radford et al. 2019), with `<|endoftext|>` as separator.
// Text that is not UTF-8 is read as Python's errors="replace" does: U+FFFD for every maximal
// invalid part. `<|endoftext|>` in the text is text. NOT_FOUND; RESOURCE_EXHAUSTED: a file over 64
// MiB or a vocabulary over 2^20; INVALID_ARGUMENT, with file and token or line: anything else that
// is wrong with them.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadBpeTokenizer(const BpeFiles& files);

// tokenizer.bin of llama2.c, encoding as its run.c does: a space before the text, characters that
// are no token as their bytes (ids 3 to 258), the pair of best score first. Separator: 1, with
// which llama2.c's training texts begin. Errors as LoadBpeTokenizer.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadLlama2cTokenizer(const std::string& path);

// *.tiktoken of the tiktoken library, with GPT-2's pre-tokenizer; for gpt2.tiktoken the same ids as
// the two files of GPT-2. The separator, <|endoftext|>, has the first id after the file's. Errors
// as LoadBpeTokenizer.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTiktokenTokenizer(const std::string& path);

// A SentencePiece model, unigram or BPE, with its normaliser. Separator: the end piece, or the
// start piece where there is none. Errors as LoadBpeTokenizer; also INVALID_ARGUMENT: models of
// words or characters, denormalisers, BPE models with unused pieces.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(const std::string& path);

// tokenizer.json of Hugging Face's tokenizers library, as far as it is a byte-level BPE with the
// pre-tokenizer of GPT-2 or of Llama 3 and without a normaliser; special tokens in a text are text.
// Separator: the first of <|endoftext|>, <|end_of_text|>, </s> and <eos> that it has. Errors as
// LoadBpeTokenizer; whatever else such files may ask for is INVALID_ARGUMENT.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadHuggingFaceTokenizer(const std::string& path);

// Of a dataset: its tokenizer's files, unless the tokenizer is "bytes".
inline constexpr char kTokenizerDirectory[] = "tokenizer";

// The tokenizer at a path: a file *.tiktoken, *.model (sentencepiece), *.bin (llama2c) or
// *tokenizer.json, a directory with vocab.json and merges.txt (gpt2) or one of those files called
// tokenizer.*, in this order, a dataset, or the word "bytes". INVALID_ARGUMENT where it is none of
// these; otherwise as above.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path);

struct NamedFile {
  std::string name;
  std::string contents;
};
// The files of such a tokenizer under the names by which LoadTokenizer finds them in a directory;
// of a directory all that have a known name. None for "bytes". RESOURCE_EXHAUSTED: over 64 MiB.
absl::StatusOr<std::vector<NamedFile>> ReadTokenizerFiles(const std::string& path);

// Whether LoadTokenizer would find files of a tokenizer there, good or bad.
bool HasTokenizer(const std::string& path);

// Writes what ReadTokenizerFiles reads into a directory, durably.
absl::Status CopyTokenizer(const std::string& path, const std::string& directory);

}  // namespace nibble::data

#endif  // WORKER_DATA_TOKENIZER_H_
