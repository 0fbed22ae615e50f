#include "worker/data/tokenizer_json.h"

#include <exception>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "nlohmann/json.hpp"

namespace nibble::data {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxEntries = size_t{1} << 20;
constexpr size_t kMaxSettings = size_t{1} << 16;
constexpr size_t kMaxSettingBytes = size_t{4} << 20;
constexpr size_t kMaxDepth = 16;
constexpr char kVocabulary[] = "model.vocab";
constexpr char kMerges[] = "model.merges";

// Hears the document as it is parsed, so that what is not wanted is never kept.
class Sax : public nlohmann::json_sax<Json> {
 public:
  explicit Sax(TokenizerJson* out) : out_(*out) {}

  bool null() override { return Next() && !InMerge("null"); }
  bool boolean(bool value) override { return Scalar(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return Scalar(absl::StrCat(value)); }
  bool number_float(number_float_t, const string_t& text) override { return Scalar(text); }
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool key(string_t& text) override {
    levels_.back().name = text;
    return text.size() <= kMaxSettingBytes || TooMuch();
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (!AtEntryOf(kVocabulary)) return Scalar(absl::StrCat(value));
    const std::string& token = levels_.back().name;
    if (value >= kMaxEntries || out_.vocabulary.size() >= kMaxEntries) {
      return Set(absl::ResourceExhaustedError(
          absl::StrCat("model.vocab has the id ", value, "; allowed: below ", kMaxEntries)));
    }
    return out_.vocabulary.try_emplace(token, static_cast<int32_t>(value)).second ||
           Fail("a token of model.vocab twice");
  }

  bool string(string_t& text) override {
    if (merge_parts_ >= 0) {  // a merge that is a list
      if (merge_parts_ >= 2) return Fail("a merge of more than two tokens");
      (merge_parts_++ == 0 ? pair_.first : pair_.second) = text;
      return true;
    }
    if (Where() == kMerges && Next()) return AddMerge(text);
    return Scalar(text);
  }

  bool start_object(std::size_t) override { return Open(/*array=*/false); }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t) override {
    if (Where() != kMerges) return Open(/*array=*/true);
    if (merge_parts_ >= 0) return Fail("a merge within a merge");
    merge_parts_ = 0;
    return true;
  }
  bool end_array() override {
    if (merge_parts_ < 0) return Close();
    if (merge_parts_ != 2) return Fail("a merge of fewer than two tokens");
    merge_parts_ = -1;
    return Next() && Push(std::move(pair_));
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    return Set(absl::InvalidArgumentError(absl::StrCat("not JSON at byte ", position)));
  }

  const absl::Status& status() const { return status_; }

 private:
  struct Level {
    bool array;
    std::string name;  // of the value at hand: its key, or its index
    int64_t index = -1;
  };

  bool Set(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }
  bool Fail(absl::string_view what) {
    return Set(absl::InvalidArgumentError(absl::StrCat("holds ", what)));
  }
  bool TooMuch() {
    return Set(absl::ResourceExhaustedError("has too much beside its vocabulary and merges"));
  }
  bool InMerge(absl::string_view what) {
    if (merge_parts_ >= 0) Fail(absl::StrCat(what, " in a merge"));
    return merge_parts_ >= 0;
  }

  // Path of the container at hand.
  const std::string& Where() const { return where_.empty() ? top_ : where_.back(); }
  bool AtEntryOf(absl::string_view container) const {
    return !levels_.empty() && !levels_.back().array && Where() == container;
  }
  // Counts a value of the container at hand.
  bool Next() {
    if (levels_.empty()) return Fail("a value that is no object");
    if (levels_.back().array) levels_.back().name = absl::StrCat(++levels_.back().index);
    return true;
  }
  std::string Path() const {
    return Where().empty() ? levels_.back().name : absl::StrCat(Where(), ".", levels_.back().name);
  }

  bool Open(bool array) {
    if (levels_.empty()) {
      if (array) return Fail("a list where an object must be");
      where_.emplace_back();
    } else {
      if (AtEntryOf(kVocabulary)) return Fail("a token of model.vocab without an id");
      if (InMerge("a container") || !Next()) return false;
      if (levels_.size() >= kMaxDepth) return Fail("containers nested too deeply");
      where_.push_back(Path());
    }
    levels_.push_back({array, "", -1});
    return true;
  }
  bool Close() {
    levels_.pop_back();
    where_.pop_back();
    return true;
  }

  bool Scalar(std::string text) {
    if (InMerge("no string") || !Next()) return false;
    if (Where() == kVocabulary) return Fail("a token of model.vocab without an id");
    std::string path = Path();
    bytes_ += path.size() + text.size();
    if (out_.settings.size() >= kMaxSettings || bytes_ > kMaxSettingBytes) return TooMuch();
    return out_.settings.try_emplace(std::move(path), std::move(text)).second ||
           Fail("a member twice");
  }

  bool AddMerge(const std::string& text) {
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return Fail(absl::StrCat("the merge \"", EscapeControlCharacters(text.substr(0, 64)),
                               "\", which is not two tokens with a space between"));
    }
    return Push({text.substr(0, space), text.substr(space + 1)});
  }
  bool Push(std::pair<std::string, std::string> pair) {
    if (out_.merges.size() >= kMaxEntries) {
      return Set(absl::ResourceExhaustedError(absl::StrCat("has over ", kMaxEntries, " merges")));
    }
    out_.merges.push_back(std::move(pair));
    pair_ = {};
    return true;
  }

  TokenizerJson& out_;
  std::vector<Level> levels_;
  std::vector<std::string> where_;  // by level
  const std::string top_;
  std::pair<std::string, std::string> pair_;
  int merge_parts_ = -1;  // of a merge that is a list; -1: outside of one
  size_t bytes_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<TokenizerJson> ParseTokenizerJson(const std::string& json) {
  TokenizerJson out;
  Sax sax(&out);
  bool parsed = false;
  try {
    parsed = Json::sax_parse(json, &sax);
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(e.what());
  }
  if (parsed && sax.status().ok()) return out;
  return sax.status().ok() ? absl::InvalidArgumentError("not JSON") : sax.status();
}

}  // namespace nibble::data
