#include "server/projects_file.h"

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nibble/v1/scheduling_config.pb.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/spec_document.h"

namespace nibble::daemon {
namespace {

constexpr int kMaxProjects = 1000;
constexpr double kMaxWeight = 1e6;
constexpr double kMaxSeconds = 1e9;

int64_t Nanos(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

scheduler::ProjectOptions Project(const v1::ProjectConfig& config, const std::string& field,
                                  spec::ErrorList* errors) {
  scheduler::ProjectOptions project;
  project.name = config.name();
  spec::CheckName(absl::StrCat(field, ".name"), config.name(), errors);
  if (config.has_weight()) project.weight = config.weight();
  spec::CheckReal(absl::StrCat(field, ".weight"), project.weight, {1e-6, kMaxWeight}, errors);
  project.quota_slots = config.quota_slots();
  spec::CheckInteger(absl::StrCat(field, ".quota_slots"), config.quota_slots(), {0, INT32_MAX},
                     errors);
  if (config.has_limit_slots()) {
    project.limit_slots = config.limit_slots();
    spec::CheckInteger(absl::StrCat(field, ".limit_slots"), config.limit_slots(),
                       {config.quota_slots(), INT32_MAX}, errors);
  }
  project.max_jobs = config.max_jobs();
  spec::CheckInteger(absl::StrCat(field, ".max_jobs"), config.max_jobs(), {0, INT32_MAX}, errors);
  return project;
}

// A time of the file, where it is given.
void Seconds(const char* field, bool given, double seconds, double least, int64_t* nanos,
             spec::ErrorList* errors) {
  if (!given) return;
  if (spec::CheckReal(field, seconds, {least, kMaxSeconds}, errors)) *nanos = Nanos(seconds);
}

}  // namespace

absl::Status ReadProjectsFile(const std::string& path, scheduler::SchedulerOptions* options) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, spec::kMaxDocumentBytes + 1));
  v1::SchedulingConfig config;
  const absl::Status parsed =
      spec::ParseDocumentInto(text, spec::FormatOfFile(path), &config, nullptr);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", parsed.message()));
  }
  spec::ErrorList errors;
  spec::CheckUnknownFields(config, &errors);
  if (config.projects_size() > kMaxProjects) {
    errors.Add("projects",
               absl::StrCat("has ", config.projects_size(), "; allowed: at most ", kMaxProjects));
  }
  std::set<std::string> names;
  for (int i = 0; i < config.projects_size() && i < kMaxProjects; ++i) {
    const std::string field = absl::StrCat("projects[", i, "]");
    options->projects.push_back(Project(config.projects(i), field, &errors));
    if (!names.insert(config.projects(i).name()).second) {
      errors.Add(absl::StrCat(field, ".name"), "is there twice");
    }
  }
  Seconds("fair_share_half_life_seconds", config.has_fair_share_half_life_seconds(),
          config.fair_share_half_life_seconds(), 1, &options->fair_share_half_life_nanos, &errors);
  Seconds("ageing_seconds", config.has_ageing_seconds(), config.ageing_seconds(), 1e-3,
          &options->ageing_nanos, &errors);
  Seconds("min_run_seconds", config.has_min_run_seconds(), config.min_run_seconds(), 0,
          &options->min_run_nanos, &errors);
  Seconds("pause_grace_seconds", config.has_pause_grace_seconds(), config.pause_grace_seconds(),
          0.1, &options->pause_grace_nanos, &errors);
  if (errors.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", errors.ToStatus().message()));
}

}  // namespace nibble::daemon
