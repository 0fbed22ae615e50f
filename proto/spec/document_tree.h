// The common form of YAML, JSON and text-proto documents before their types are known.
// Internal to proto/spec.
#ifndef PROTO_SPEC_DOCUMENT_TREE_H_
#define PROTO_SPEC_DOCUMENT_TREE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {

// Mappings and sequences within each other, the root included.
inline constexpr int kMaxDocumentDepth = 16;

struct DocumentEntry;

struct DocumentNode {
  enum class Kind {
    kNull,
    kBool,
    kNumber,
    kString,
    kPlain,  // unquoted: whether it is a string, a number or a bool is the field's choice
    kMapping,
    kSequence
  };
  Kind kind = Kind::kNull;
  int line = 0;
  std::string text;                    // scalars, as written, escapes resolved
  std::vector<DocumentEntry> entries;  // kMapping, in order, repeated keys kept
  std::vector<DocumentNode> items;     // kSequence
};

struct DocumentEntry {
  std::string key;
  int line = 0;
  DocumentNode value;
};

// What differs between the three languages once there is a tree.
struct TreeDialect {
  // 64-bit integers may be quoted, as protobuf's JSON writes them.
  bool quoted_integers = false;
  // A map field is written as repeated messages {key, value}, and a repeated field as repeated
  // keys.
  bool repeated_keys = false;
  // An unquoted word is a string where the field is one. (Text proto: only an enum's name.)
  bool plain_strings = true;
};

// Builds a tree from parser events. After an error every further event is ignored.
class TreeBuilder {
 public:
  explicit TreeBuilder(ErrorList* errors) : errors_(errors) {}

  // In a mapping, scalars are key and value by turns.
  void Scalar(DocumentNode::Kind kind, absl::string_view text, int line);
  void StartMapping(int line) { Start(DocumentNode::Kind::kMapping, line); }
  void StartSequence(int line) { Start(DocumentNode::Kind::kSequence, line); }
  // Of a mapping or sequence.
  void End();
  // Records a syntax error.
  void Fail(absl::string_view description, int line);

  bool failed() const { return failed_; }
  DocumentNode& root() { return root_; }

 private:
  struct Frame {
    DocumentNode node;
    bool has_key = false;
    std::string key;
    int key_line = 0;
  };
  void Start(DocumentNode::Kind kind, int line);
  void Attach(DocumentNode node);

  ErrorList* errors_;
  DocumentNode root_;
  std::vector<Frame> stack_;
  bool failed_ = false;
};

// Each parses `document` (valid UTF-8 without NUL) into `*root`. False where it does not parse;
// then *errors says why.
bool ParseYamlTree(absl::string_view document, DocumentNode* root, ErrorList* errors);
bool ParseJsonTree(absl::string_view document, DocumentNode* root, ErrorList* errors);
bool ParseTextProtoTree(absl::string_view document, DocumentNode* root, ErrorList* errors);

// Sets the fields of `message` that `root`, a mapping, names. Everything that does not fit is in
// *errors with its path.
void FillMessage(const DocumentNode& root, const TreeDialect& dialect,
                 google::protobuf::Message* message, ErrorList* errors);

// Well-formed UTF-8 (no surrogates, no overlong forms).
bool IsValidUtf8(absl::string_view text);

}  // namespace nibble::spec

#endif  // PROTO_SPEC_DOCUMENT_TREE_H_
