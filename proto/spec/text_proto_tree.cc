#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "proto/spec/document_tree.h"

namespace nibble::spec {
namespace {

using google::protobuf::io::Tokenizer;

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int, const std::string& message) override {
    if (!message_.empty()) return;
    message_ = message;
    line_ = line + 1;
  }
  bool any() const { return !message_.empty(); }
  const std::string& message() const { return message_; }
  int line() const { return line_; }

 private:
  std::string message_;
  int line_ = 0;
};

// Text proto to the same tree as YAML, so that its errors carry paths too (protobuf's own parser
// gives lines only). Recursive; the builder's depth limit bounds it.
class TextProtoParser {
 public:
  TextProtoParser(Tokenizer* tokenizer, FirstError* lexical, TreeBuilder* builder)
      : tokenizer_(tokenizer), lexical_(lexical), builder_(builder) {}

  void ParseDocument() {
    builder_->StartMapping(1);
    Next();
    ParseFields("");
    builder_->End();
  }

 private:
  bool At(absl::string_view text) const { return tokenizer_->current().text == text; }
  int Line() const { return tokenizer_->current().line + 1; }
  void Fail(absl::string_view expected) {
    builder_->Fail(absl::StrCat("not text proto at ", QuoteForError(tokenizer_->current().text),
                                "; expected ", expected),
                   Line());
  }
  void Next() {
    tokenizer_->Next();
    if (lexical_->any()) {
      builder_->Fail(absl::StrCat("not text proto: ", lexical_->message()), lexical_->line());
    }
  }

  // Up to `end`: "}", ">" or the end of the document ("").
  void ParseFields(absl::string_view end) {
    while (!builder_->failed()) {
      if (tokenizer_->current().type == Tokenizer::TYPE_END) {
        if (!end.empty()) Fail(QuoteForError(end));
        return;
      }
      if (!end.empty() && At(end)) {
        Next();
        return;
      }
      if (tokenizer_->current().type != Tokenizer::TYPE_IDENTIFIER) return Fail("a field's name");
      builder_->Scalar(DocumentNode::Kind::kString, tokenizer_->current().text, Line());
      Next();
      const bool colon = At(":");
      if (colon) Next();
      if (!colon && !At("{") && !At("<")) return Fail("\":\" or a message");
      ParseValue();
      if (At(",") || At(";")) Next();
    }
  }

  void ParseValue() {
    if (builder_->failed()) return;
    if (At("{") || At("<")) {
      const absl::string_view end = At("{") ? "}" : ">";
      builder_->StartMapping(Line());
      Next();
      ParseFields(end);
      builder_->End();
    } else if (At("[")) {
      ParseList();
    } else {
      ParseScalar();
    }
  }

  void ParseList() {
    builder_->StartSequence(Line());
    Next();
    while (!builder_->failed() && !At("]")) {
      ParseValue();
      if (At(",")) {
        Next();
      } else if (!At("]")) {
        return Fail("\",\" or \"]\"");
      }
    }
    Next();
    builder_->End();
  }

  void ParseScalar() {
    const int line = Line();
    if (tokenizer_->current().type == Tokenizer::TYPE_STRING) {
      std::string text;
      while (tokenizer_->current().type == Tokenizer::TYPE_STRING) {
        Tokenizer::ParseStringAppend(tokenizer_->current().text, &text);
        Next();
      }
      builder_->Scalar(DocumentNode::Kind::kString, text, line);
      return;
    }
    std::string sign;
    if (At("-")) {
      sign = "-";
      Next();
    }
    const Tokenizer::Token token = tokenizer_->current();
    const bool number =
        token.type == Tokenizer::TYPE_INTEGER || token.type == Tokenizer::TYPE_FLOAT;
    if (!number && (token.type != Tokenizer::TYPE_IDENTIFIER)) return Fail("a value");
    builder_->Scalar(number ? DocumentNode::Kind::kNumber : DocumentNode::Kind::kPlain,
                     sign + token.text, line);
    Next();
  }

  Tokenizer* tokenizer_;
  FirstError* lexical_;
  TreeBuilder* builder_;
};

}  // namespace

bool ParseTextProtoTree(absl::string_view document, DocumentNode* root, ErrorList* errors) {
  TreeBuilder builder(errors);
  google::protobuf::io::ArrayInputStream input(document.data(), static_cast<int>(document.size()));
  FirstError lexical;
  Tokenizer tokenizer(&input, &lexical);
  tokenizer.set_comment_style(Tokenizer::SH_COMMENT_STYLE);
  TextProtoParser(&tokenizer, &lexical, &builder).ParseDocument();
  if (builder.failed()) return false;
  *root = std::move(builder.root());
  return true;
}

}  // namespace nibble::spec
