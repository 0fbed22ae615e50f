#include "proto/spec/data_resolution.h"

#include <cmath>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/limits.h"

namespace nibble::spec {
namespace {

using Sources = google::protobuf::RepeatedPtrField<v1::DataSourceSpec>;

void CheckDigest(const std::string& field, const std::string& digest, const std::string& format,
                 ErrorList* errors) {
  if (digest.empty()) return;
  bool good = digest.size() == 64;
  for (const char c : digest) good = good && (absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'));
  if (!good) {
    errors->Add(field, absl::StrCat("is ", QuoteForError(digest),
                                    "; allowed: 64 hex digits in lower case, as sha256sum prints"));
  } else if (format == "nibble") {
    errors->Add(field, "is for other formats than nibble, which has its own digests");
  }
}

void ResolveSource(const std::string& path, v1::DataSourceSpec* source, ErrorList* errors) {
  CheckPath(path + ".path", source->path(), PathKind::kAbsoluteOrRelative, errors);
  if (!source->validation_path().empty()) {
    CheckPath(path + ".validation_path", source->validation_path(), PathKind::kAbsoluteOrRelative,
              errors);
  }
  if (source->format().empty()) source->set_format("auto");
  CheckOneOf(path + ".format", source->format(),
             {"auto", "nibble", "llmc", "megatron", "raw_u16", "raw_u32"}, errors);
  if (!source->has_weight()) source->set_weight(1);
  CheckReal(path + ".weight", source->weight(), {0, 1e9, /*min_allowed=*/false}, errors);
  CheckDigest(path + ".sha256", source->sha256(), source->format(), errors);
  CheckDigest(path + ".validation_sha256", source->validation_sha256(), source->format(), errors);
  if (!source->has_separator()) return;
  if (source->format() == "nibble") {
    errors->Add(path + ".separator", "is for other formats than nibble, which records it");
  }
  CheckInteger(path + ".separator", source->separator(), {0, kMaxVocabSize - 1}, errors);
}

void ResolveSources(const std::string& path, Sources* sources, ErrorList* errors) {
  if (sources->empty()) errors->Add(path, "is missing; required: at least one source");
  for (int i = 0; i < sources->size(); ++i) {
    ResolveSource(absl::StrCat(path, "[", i, "]"), sources->Mutable(i), errors);
  }
}

void ResolvePhases(v1::DataSpec* data, ErrorList* errors) {
  double sum = 0;
  bool good = true;
  for (int i = 0; i < data->phases_size(); ++i) {
    v1::DataPhaseSpec* phase = data->mutable_phases(i);
    const std::string path = absl::StrCat("data.phases[", i, "]");
    if (!phase->has_share()) {
      errors->Add(path + ".share", "is missing; required: above 0, to 1");
      good = false;
    } else {
      good &= CheckReal(path + ".share", phase->share(), {0, 1, /*min_allowed=*/false}, errors);
    }
    sum += phase->share();
    ResolveSources(path + ".sources", phase->mutable_sources(), errors);
  }
  if (good && std::abs(sum - 1) > 1e-6) {
    errors->Add("data.phases", absl::StrCat("have shares that add up to ", sum, "; required: 1"));
  }
}

// Before anything is resolved: a spec is at most 256 KiB, but so many errors help nobody.
bool CheckCounts(const v1::DataSpec& data, ErrorList* errors) {
  int sources = data.sources_size();
  for (const v1::DataPhaseSpec& phase : data.phases()) sources += phase.sources_size();
  if (data.phases_size() > kMaxDataPhases) {
    errors->Add("data.phases",
                absl::StrCat("has ", data.phases_size(), "; allowed: at most ", kMaxDataPhases));
    return false;
  }
  if (sources > kMaxDataSources) {
    errors->Add(data.phases_size() > 0 ? "data.phases" : "data.sources",
                absl::StrCat("has ", sources, " sources; allowed: at most ", kMaxDataSources));
    return false;
  }
  return true;
}

}  // namespace

void ResolveData(bool required, v1::DataSpec* data, ErrorList* errors) {
  if (data->documents().empty()) data->set_documents("join");
  CheckOneOf("data.documents", data->documents(), {"join", "mask", "separate"}, errors);
  const bool has_path = !data->path().empty();
  const bool has_sources = data->sources_size() > 0;
  const bool has_phases = data->phases_size() > 0;
  if (int{has_path} + int{has_sources} + int{has_phases} > 1) {
    errors->Add("data", "has more than one of path, sources and phases; allowed: one of them");
    return;
  }
  if (!has_sources && !has_phases) {
    if (!has_path && !required) return;
    CheckPath("data.path", data->path(), PathKind::kAbsoluteOrRelative, errors);
    return;
  }
  if (!CheckCounts(*data, errors)) return;
  if (has_sources) ResolveSources("data.sources", data->mutable_sources(), errors);
  if (has_phases) ResolvePhases(data, errors);
}

}  // namespace nibble::spec
