#include "proto/spec/spec_document.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/document_tree.h"
#include "proto/spec/error_list.h"

namespace nibble::spec {
namespace {

// Checks that hold in all three languages, before any parser sees the bytes.
void CheckBytes(absl::string_view document, ErrorList* errors) {
  if (document.size() > kMaxDocumentBytes) {
    errors->Add("", absl::StrCat("the document has ", document.size(), " bytes; allowed: at most ",
                                 kMaxDocumentBytes));
  } else if (document.find('\0') != absl::string_view::npos) {
    errors->Add("", "the document contains a NUL byte; allowed: UTF-8 text");
  } else if (!IsValidUtf8(document)) {
    errors->Add("", "the document is not UTF-8");
  } else if (absl::StripAsciiWhitespace(document).empty()) {
    errors->Add("", "the document is empty; allowed: a job spec");
  }
}

bool ParseTree(absl::string_view document, DocumentFormat format, DocumentNode* root,
               ErrorList* errors) {
  switch (format) {
    case DocumentFormat::kYaml:
      return ParseYamlTree(document, root, errors);
    case DocumentFormat::kJson:
      return ParseJsonTree(document, root, errors);
    case DocumentFormat::kTextProto:
      return ParseTextProtoTree(document, root, errors);
  }
  return false;
}

TreeDialect DialectOf(DocumentFormat format) {
  TreeDialect dialect;
  dialect.quoted_integers = format == DocumentFormat::kJson;
  dialect.repeated_keys = format == DocumentFormat::kTextProto;
  dialect.plain_strings = format == DocumentFormat::kYaml;
  return dialect;
}

}  // namespace

DocumentFormat FormatOfFile(absl::string_view path) {
  const std::string name = absl::AsciiStrToLower(path);
  if (absl::EndsWith(name, ".json")) return DocumentFormat::kJson;
  for (absl::string_view suffix : {".textproto", ".txtpb", ".pbtxt"}) {
    if (absl::EndsWith(name, suffix)) return DocumentFormat::kTextProto;
  }
  return DocumentFormat::kYaml;
}

absl::Status ParseDocumentInto(absl::string_view document, DocumentFormat format,
                               google::protobuf::Message* message,
                               std::vector<FieldError>* errors) {
  ErrorList found;
  CheckBytes(document, &found);
  DocumentNode root;
  if (found.ok() && ParseTree(document, format, &root, &found)) {
    FillMessage(root, DialectOf(format), message, &found);
  }
  if (errors != nullptr) *errors = found.errors();
  return found.ok() ? absl::OkStatus() : found.ToStatus();
}

absl::StatusOr<v1::JobSpec> ParseJobSpec(absl::string_view document, DocumentFormat format,
                                         std::vector<FieldError>* errors) {
  v1::JobSpec spec;
  const absl::Status parsed = ParseDocumentInto(document, format, &spec, errors);
  if (!parsed.ok()) return parsed;
  return spec;
}

}  // namespace nibble::spec
