// Documents for tests: a valid spec with single values replaced. Tests only.
#ifndef PROTO_SPEC_SPEC_TEST_UTIL_H_
#define PROTO_SPEC_SPEC_TEST_UTIL_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "proto/spec/job_resolution.h"
#include "proto/spec/spec_document.h"

namespace nibble::spec {

// The smallest valid spec, by path, values as YAML and JSON write them.
inline std::map<std::string, std::string> MinimalSpec() {
  return {{"name", "\"tiny\""},
          {"model.preset", "\"llama-tiny\""},
          {"data.path", "\"kjv\""},
          {"training.steps", "100"}};
}

struct TestNode {
  std::string value;
  std::map<std::string, TestNode> children;
};

inline std::string NodeText(const TestNode& node) {
  if (node.children.empty()) return node.value;
  std::string text = "{";
  for (const auto& [key, child] : node.children) {
    absl::StrAppend(&text, text.size() > 1 ? ", " : "", "\"", key, "\": ", NodeText(child));
  }
  return text + "}";
}

// Flow mappings with quoted keys: YAML and, where the values are, JSON.
inline std::string Document(const std::map<std::string, std::string>& values) {
  TestNode root;
  for (const auto& [path, value] : values) {
    TestNode* node = &root;
    for (absl::string_view part : absl::StrSplit(path, '.')) {
      node = &node->children[std::string(part)];
    }
    node->value = value;
  }
  return NodeText(root);
}

// MinimalSpec with one value set.
inline std::string DocumentWith(const std::string& path, const std::string& value) {
  auto values = MinimalSpec();
  values[path] = value;
  return Document(values);
}

// Parses and resolves; the fields that were refused.
inline std::vector<FieldError> ErrorsOf(absl::string_view document, DocumentFormat format) {
  std::vector<FieldError> errors;
  const auto spec = ParseJobSpec(document, format, &errors);
  if (!spec.ok()) {
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(errors.empty());
    return errors;
  }
  const auto job = ResolveJob(*spec, &errors);
  EXPECT_EQ(job.ok(), errors.empty());
  if (!job.ok()) {
    EXPECT_EQ(job.status().code(), absl::StatusCode::kInvalidArgument);
  }
  return errors;
}

inline std::string Describe(const std::vector<FieldError>& errors) {
  std::string text;
  for (const FieldError& error : errors) {
    absl::StrAppend(&text, "[", error.field, "] ", error.description, "\n");
  }
  return text;
}

inline v1::JobSpec ParseOrDie(absl::string_view document) {
  const auto spec = ParseJobSpec(document, DocumentFormat::kYaml, nullptr);
  EXPECT_TRUE(spec.ok()) << spec.status() << "\n" << document;
  return spec.ok() ? *spec : v1::JobSpec();
}

inline ResolvedJob ResolveOrDie(const v1::JobSpec& spec) {
  auto job = ResolveJob(spec, nullptr);
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? *std::move(job) : ResolvedJob();
}

inline ResolvedJob ResolveWith(const std::map<std::string, std::string>& changes) {
  auto values = MinimalSpec();
  for (const auto& [path, value] : changes) values[path] = value;
  return ResolveOrDie(ParseOrDie(Document(values)));
}

}  // namespace nibble::spec

#endif  // PROTO_SPEC_SPEC_TEST_UTIL_H_
