#include "client/spec_file.h"

#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "client/status.h"
#include "client/verb.h"
#include "google/protobuf/descriptor.h"
#include "proto/spec/spec_document.h"

namespace nibble::client {
namespace {

absl::StatusOr<std::string> ReadStandardInput(std::istream& in) {
  std::string text;
  char buffer[4096];
  while (text.size() <= spec::kMaxDocumentBytes &&
         (in.read(buffer, sizeof(buffer)) || in.gcount() > 0)) {
    text.append(buffer, in.gcount());
  }
  return text;
}

absl::StatusOr<v1::JobSpec> Parse(absl::string_view document, spec::DocumentFormat format,
                                  absl::string_view where) {
  std::vector<spec::FieldError> errors;
  absl::StatusOr<v1::JobSpec> parsed = spec::ParseJobSpec(document, format, &errors);
  if (parsed.ok() || errors.empty()) return parsed;
  return InvalidFields(absl::StrCat(where, " is not a valid job spec"), errors);
}

// Splits "labels.team/x" after "labels": label keys may contain dots.
std::vector<std::string> PathParts(const std::string& path) {
  if (absl::StartsWith(path, "labels.")) return {"labels", path.substr(7)};
  return absl::StrSplit(path, '.');
}

// Removes the field at `parts` from *message, or the label. False where there is no such field.
bool Clear(google::protobuf::Message* message, const std::vector<std::string>& parts) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto* field = message->GetDescriptor()->FindFieldByName(parts[i]);
    if (field == nullptr) return false;
    const auto* reflection = message->GetReflection();
    if (i + 1 == parts.size()) {
      reflection->ClearField(message, field);
      return true;
    }
    if (field->is_map() && i + 2 == parts.size()) {
      static_cast<v1::JobSpec*>(message)->mutable_labels()->erase(parts[i + 1]);
      return true;
    }
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) return false;
    if (!reflection->HasField(*message, field)) {
      // Nothing to clear, but the path must still be one.
      const auto* type = field->message_type();
      for (size_t k = i + 1; k < parts.size(); ++k) {
        const auto* inner = type != nullptr ? type->FindFieldByName(parts[k]) : nullptr;
        if (inner == nullptr) return false;
        type = inner->message_type();
      }
      return true;
    }
    message = reflection->MutableMessage(message, field);
  }
  return false;
}

// The change as a YAML document of its own, so that values are read exactly as in a file.
std::string ChangeDocument(const std::vector<std::string>& parts, absl::string_view value) {
  std::string document;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool last = i + 1 == parts.size();
    absl::StrAppend(&document, std::string(2 * i, ' '), parts[i], ":", last ? " " : "\n");
  }
  return absl::StrCat(document, value, "\n");
}

absl::StatusOr<v1::JobSpec> ReadDocument(Session& session, const std::string& file) {
  const bool standard_input = file == "-";
  absl::StatusOr<std::string> document = standard_input ? ReadStandardInput(*session.terminal().in)
                                                        : ReadFile(file, spec::kMaxDocumentBytes);
  // A file that is not there is a wrong command line, not a job that is not there.
  if (!document.ok()) return absl::InvalidArgumentError(document.status().message());
  return Parse(*document, standard_input ? spec::DocumentFormat::kYaml : spec::FormatOfFile(file),
               standard_input ? "standard input" : file);
}

}  // namespace

std::vector<Option> SpecOptions(SpecSource* source) {
  return {{"FILE",
           "",
           "Job spec: YAML, or JSON or text proto by its name; - for standard input",
           &source->file,
           true,
           {},
           Completion::kFile},
          {"--set", "PATH=VALUE",
           "Change a field, e.g. training.steps=100; an empty value clears it; may be repeated",
           &source->changes},
          {"--name", "NAME", "Use this name instead of the spec's", &source->name}};
}

absl::Status ApplyChange(const std::string& change, v1::JobSpec* spec) {
  const size_t equals = change.find('=');
  const std::string path = change.substr(0, equals);
  constexpr absl::string_view kPathCharacters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-/";
  if (equals == std::string::npos || path.empty() ||
      absl::string_view(path).find_first_not_of(kPathCharacters) != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set is \"", change, "\"; allowed: PATH=VALUE, e.g. training.steps=100"));
  }
  const std::string value = change.substr(equals + 1);
  if (value.find_first_of("\n\r\0", 0, 3) != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", path, ": the value has several lines"));
  }
  const std::vector<std::string> parts = PathParts(path);
  if (value.empty()) {
    if (Clear(spec, parts)) return absl::OkStatus();
    return InvalidFields("--set names no field", {{path, "is not a field of a job spec"}});
  }
  NIBBLE_ASSIGN_OR_RETURN(const v1::JobSpec parsed,
                          Parse(ChangeDocument(parts, value), spec::DocumentFormat::kYaml,
                                absl::StrCat("--set ", change)));
  spec->MergeFrom(parsed);
  return absl::OkStatus();
}

absl::StatusOr<v1::JobSpec> ReadSpec(Session& session, const SpecSource& source) {
  v1::JobSpec spec;
  if (!source.file.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(spec, ReadDocument(session, source.file));
  }
  for (const std::string& change : source.changes) {
    NIBBLE_RETURN_IF_ERROR(ApplyChange(change, &spec));
  }
  if (!source.name.empty()) spec.set_name(source.name);
  return spec;
}

}  // namespace nibble::client
