#include "proto/spec/document_tree.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble::spec {

void TreeBuilder::Fail(absl::string_view description, int line) {
  if (failed_) return;
  failed_ = true;
  errors_->Add("", absl::StrCat("line ", line, ": ", description));
}

void TreeBuilder::Scalar(DocumentNode::Kind kind, absl::string_view text, int line) {
  if (failed_) return;
  if (!stack_.empty()) {
    Frame& frame = stack_.back();
    if (frame.node.kind == DocumentNode::Kind::kMapping && !frame.has_key) {
      if (kind == DocumentNode::Kind::kNull) {
        Fail("a key is empty; allowed: a field's name", line);
        return;
      }
      frame.has_key = true;
      frame.key = std::string(text);
      frame.key_line = line;
      return;
    }
  }
  DocumentNode node;
  node.kind = kind;
  node.line = line;
  node.text = std::string(text);
  Attach(std::move(node));
}

void TreeBuilder::Start(DocumentNode::Kind kind, int line) {
  if (failed_) return;
  if (stack_.size() >= kMaxDocumentDepth) {
    Fail(absl::StrCat("nested deeper than ", kMaxDocumentDepth, " levels"), line);
    return;
  }
  if (!stack_.empty() && stack_.back().node.kind == DocumentNode::Kind::kMapping &&
      !stack_.back().has_key) {
    Fail("a key is a mapping or sequence; allowed: a field's name", line);
    return;
  }
  stack_.emplace_back();
  stack_.back().node.kind = kind;
  stack_.back().node.line = line;
}

void TreeBuilder::End() {
  if (failed_ || stack_.empty()) return;
  DocumentNode node = std::move(stack_.back().node);
  stack_.pop_back();
  Attach(std::move(node));
}

void TreeBuilder::Attach(DocumentNode node) {
  if (stack_.empty()) {
    root_ = std::move(node);
    return;
  }
  Frame& frame = stack_.back();
  if (frame.node.kind == DocumentNode::Kind::kSequence) {
    frame.node.items.push_back(std::move(node));
    return;
  }
  frame.node.entries.push_back({std::move(frame.key), frame.key_line, std::move(node)});
  frame.has_key = false;
}

bool IsValidUtf8(absl::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const size_t size = text.size();
  for (size_t i = 0; i < size;) {
    const unsigned char lead = p[i];
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const int length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || i + length > size) return false;
    uint32_t code = lead & (0x7f >> length);
    for (int k = 1; k < length; ++k) {
      if ((p[i + k] & 0xc0) != 0x80) return false;
      code = code << 6 | (p[i + k] & 0x3f);
    }
    if (length == 3 && (code < 0x800 || (code >= 0xd800 && code <= 0xdfff))) return false;
    if (length == 4 && (code < 0x10000 || code > 0x10ffff)) return false;
    i += length;
  }
  return true;
}

}  // namespace nibble::spec
