#include <cstddef>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "proto/spec/document_tree.h"

namespace nibble::spec {
namespace {

using Json = nlohmann::json;

// Input iterator that tells how far the lexer has read, for line numbers.
class TrackingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackingIterator(const char* p, const char** furthest) : p_(p), furthest_(furthest) {}
  reference operator*() const { return *p_; }
  TrackingIterator& operator++() {
    *furthest_ = ++p_;
    return *this;
  }
  TrackingIterator operator++(int) {
    TrackingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackingIterator& other) const { return p_ == other.p_; }
  bool operator!=(const TrackingIterator& other) const { return p_ != other.p_; }

 private:
  const char* p_;
  const char** furthest_;
};

// Feeds the tree builder from nlohmann's SAX events, which keep repeated keys and numbers as
// written, and whose parser does not recurse.
class TreeSax : public nlohmann::json_sax<Json> {
 public:
  TreeSax(const char* begin, const char** furthest, TreeBuilder* builder)
      : counted_(begin), furthest_(furthest), builder_(builder) {}

  bool null() override { return Add(DocumentNode::Kind::kNull, ""); }
  bool boolean(bool value) override {
    return Add(DocumentNode::Kind::kBool, value ? "true" : "false");
  }
  bool number_integer(number_integer_t value) override {
    return Add(DocumentNode::Kind::kNumber, absl::StrCat(value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    return Add(DocumentNode::Kind::kNumber, absl::StrCat(value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Add(DocumentNode::Kind::kNumber, text);
  }
  bool string(string_t& text) override { return Add(DocumentNode::Kind::kString, text); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override {
    builder_->StartMapping(Line());
    return !builder_->failed();
  }
  bool key(string_t& text) override { return Add(DocumentNode::Kind::kString, text); }
  bool end_object() override {
    builder_->End();
    return true;
  }
  bool start_array(std::size_t) override {
    builder_->StartSequence(Line());
    return !builder_->failed();
  }
  bool end_array() override {
    builder_->End();
    return true;
  }
  bool parse_error(std::size_t, const std::string& token, const Json::exception&) override {
    builder_->Fail(absl::StrCat("not JSON at ", QuoteForError(token)), Line());
    return false;
  }

 private:
  bool Add(DocumentNode::Kind kind, const std::string& text) {
    builder_->Scalar(kind, text, Line());
    return !builder_->failed();
  }

  // The lexer looks one character ahead of a number, so the last one read does not count.
  int Line() {
    for (; counted_ + 1 < *furthest_; ++counted_) line_ += *counted_ == '\n' ? 1 : 0;
    return line_;
  }

  const char* counted_;
  const char** furthest_;
  TreeBuilder* builder_;
  int line_ = 1;
};

}  // namespace

bool ParseJsonTree(absl::string_view document, DocumentNode* root, ErrorList* errors) {
  TreeBuilder builder(errors);
  const char* begin = document.data();
  const char* furthest = begin;
  TreeSax sax(begin, &furthest, &builder);
  try {
    Json::sax_parse(TrackingIterator(begin, &furthest),
                    TrackingIterator(begin + document.size(), &furthest), &sax);
  } catch (const std::exception& e) {
    builder.Fail(absl::StrCat("not JSON: ", e.what()), 1);
  }
  if (builder.failed()) return false;
  *root = std::move(builder.root());
  return true;
}

}  // namespace nibble::spec
