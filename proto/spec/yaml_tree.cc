#include <algorithm>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/spec/document_tree.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/parser.h"

namespace nibble::spec {
namespace {

constexpr int kMaxBrackets = 1024;

// Feeds the tree builder from yaml-cpp's events rather than from its node graph: aliases are seen
// before they are followed, and repeated keys before one hides the other.
class TreeHandler : public YAML::EventHandler {
 public:
  explicit TreeHandler(TreeBuilder* builder) : builder_(builder) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) builder_->Fail("a second document; allowed: one", Line(mark));
  }
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    builder_->Fail(absl::StrCat("anchor &", name, "; anchors are not allowed"), Line(mark));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    builder_->Fail("aliases are not allowed", Line(mark));
  }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    CheckPlainNode(mark, "?", anchor);
    builder_->Scalar(DocumentNode::Kind::kNull, "", Line(mark));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    CheckPlainNode(mark, tag, anchor);
    // yaml-cpp tags quoted scalars "!" and plain ones "?".
    builder_->Scalar(tag == "!" ? DocumentNode::Kind::kString : DocumentNode::Kind::kPlain, value,
                     Line(mark));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    CheckPlainNode(mark, tag, anchor);
    builder_->StartSequence(Line(mark));
  }
  void OnSequenceEnd() override { builder_->End(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    CheckPlainNode(mark, tag, anchor);
    builder_->StartMapping(Line(mark));
  }
  void OnMapEnd() override { builder_->End(); }

  int documents() const { return documents_; }

 private:
  static int Line(const YAML::Mark& mark) { return mark.line + 1; }

  void CheckPlainNode(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) builder_->Fail("anchors are not allowed", Line(mark));
    if (!tag.empty() && tag != "?" && tag != "!") {
      builder_->Fail(absl::StrCat("tag ", QuoteForError(tag), "; tags are not allowed"),
                     Line(mark));
    }
  }

  TreeBuilder* builder_;
  int documents_ = 0;
};

}  // namespace

bool ParseYamlTree(absl::string_view document, DocumentNode* root, ErrorList* errors) {
  TreeBuilder builder(errors);
  // yaml-cpp's scanner holds every unclosed bracket, at some 270 bytes each, before its parser sees
  // the first.
  const auto brackets =
      std::count_if(document.begin(), document.end(), [](char c) { return c == '[' || c == '{'; });
  if (brackets > kMaxBrackets) {
    builder.Fail(absl::StrCat("more than ", kMaxBrackets, " opening brackets"), 1);
    return false;
  }
  TreeHandler handler(&builder);
  try {
    std::istringstream stream{std::string(document)};
    YAML::Parser parser(stream);
    while (!builder.failed() && parser.HandleNextDocument(handler)) {
    }
  } catch (const YAML::Exception& e) {
    builder.Fail(absl::StrCat("not YAML: ", e.msg), e.mark.line + 1);
  } catch (const std::exception& e) {
    builder.Fail(absl::StrCat("not YAML: ", e.what()), 1);
  }
  if (builder.failed()) return false;
  *root = std::move(builder.root());
  return true;
}

}  // namespace nibble::spec
