// Defaults and checks of the precision policy.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/limits.h"
#include "proto/spec/precision_formats.h"
#include "proto/spec/precision_resolution.h"

namespace nibble::spec {
namespace {

constexpr int kHadamardSizes[] = {0, 4, 16, 32, 64, 128};

bool IsHadamardSize(int size) {
  return std::find(std::begin(kHadamardSizes), std::end(kHadamardSizes), size) !=
         std::end(kHadamardSizes);
}

class PolicyResolver {
 public:
  PolicyResolver(const PolicyContext& context, v1::PrecisionPolicy* policy, ErrorList* errors,
                 std::vector<std::string>* warnings)
      : context_(context), policy_(*policy), errors_(*errors), warnings_(*warnings) {}

  void Run() {
    if (policy_.version() > 1) {
      errors_.Add("precision.version", absl::StrCat("is ", policy_.version(), "; allowed: 1"));
    }
    policy_.set_version(1);
    if (policy_.recipe().empty()) policy_.set_recipe("nvfp4");
    if (!policy_.has_strict()) policy_.set_strict(false);
    if (!CheckOneOf("precision.recipe", policy_.recipe(), RecipeNames(), &errors_)) return;
    CheckHadamardSize("precision.hadamard_size", policy_.hadamard_size());
    ResolveOverrides();
    ResolveLateSwitch();
    ResolveHighPrecisionBlocks();
    ResolveFourBitOptions();
    ResolveOtherOptions();
  }

 private:
  bool Uses(bool (*accepts)(v1::NumberFormat)) const {
    if (accepts(FormatNamed(policy_.recipe()))) return true;
    if (policy_.has_late_switch() && accepts(FormatNamed(policy_.late_switch().recipe()))) {
      return true;
    }
    return std::any_of(policy_.overrides().begin(), policy_.overrides().end(),
                       [&](const v1::PrecisionOverride& change) {
                         return !change.format().empty() && accepts(FormatNamed(change.format()));
                       });
  }

  void CheckHadamardSize(const std::string& field, int size) {
    if (IsHadamardSize(size)) return;
    errors_.Add(field, absl::StrCat("is ", size, "; allowed: 0, 4, 16, 32, 64 or 128"));
  }

  // Names that are each one of `allowed`, none twice.
  void CheckNames(const std::string& field,
                  const google::protobuf::RepeatedPtrField<std::string>& names,
                  const std::vector<std::string>& allowed) {
    for (int i = 0; i < names.size(); ++i) {
      const std::string item = absl::StrCat(field, "[", i, "]");
      if (!CheckOneOf(item, names[i], allowed, &errors_)) return;
      if (std::find(names.begin(), names.begin() + i, names[i]) != names.begin() + i) {
        errors_.Add(item, absl::StrCat("is ", QuoteForError(names[i]), " again; allowed: once"));
        return;
      }
    }
  }

  void ResolveOverrides() {
    if (policy_.overrides_size() > kMaxPrecisionOverrides) {
      errors_.Add("precision.overrides",
                  absl::StrCat("has ", policy_.overrides_size(), "; allowed: at most ",
                               kMaxPrecisionOverrides));
      policy_.clear_overrides();
      return;
    }
    for (int i = 0; i < policy_.overrides_size(); ++i) {
      const std::string path = absl::StrCat("precision.overrides[", i, "]");
      const v1::PrecisionOverride& change = policy_.overrides(i);
      if (change.layers().empty() || change.layers().size() > kMaxLayerPatternBytes) {
        errors_.Add(path + ".layers",
                    absl::StrCat(change.layers().empty() ? "is missing" : "is too long",
                                 "; required: 1 to ", kMaxLayerPatternBytes,
                                 " characters of a layer's name, * and ?"));
      }
      CheckNames(path + ".products", change.products(), ProductNames());
      CheckNames(path + ".operands", change.operands(), RoleNames());
      if (!change.format().empty()) {
        CheckOneOf(path + ".format", change.format(), FormatNames(), &errors_);
      }
      if (change.has_block_rows() && change.block_rows() != 1 && change.block_rows() != 16 &&
          change.block_rows() != 128) {
        errors_.Add(path + ".block_rows",
                    absl::StrCat("is ", change.block_rows(), "; allowed: 1, 16 or 128"));
      }
      CheckHadamardSize(path + ".hadamard_size", change.hadamard_size());
      if (!change.rounding().empty()) {
        CheckOneOf(path + ".rounding", change.rounding(), {"nearest", "stochastic"}, &errors_);
      }
    }
  }

  void ResolveLateSwitch() {
    if (!policy_.has_late_switch()) return;
    v1::LateSwitch* late = policy_.mutable_late_switch();
    if (late->passes().empty()) late->set_passes("forward");
    CheckOneOf("precision.late_switch.passes", late->passes(), {"forward", "backward", "both"},
               &errors_);
    if (late->recipe().empty()) late->set_recipe("bf16");
    CheckOneOf("precision.late_switch.recipe", late->recipe(), RecipeNames(), &errors_);
    if (late->has_step() == late->has_token_fraction()) {
      errors_.Add("precision.late_switch.step",
                  absl::StrCat(late->has_step() ? "and precision.late_switch.token_fraction are "
                                                  "both given"
                                                : "and precision.late_switch.token_fraction are "
                                                  "both missing",
                               "; required: exactly one of them"));
    } else if (late->has_step()) {
      CheckInteger("precision.late_switch.step", late->step(),
                   {1, context_.total_steps > 0 ? context_.total_steps : kMaxSteps}, &errors_);
    } else {
      CheckReal("precision.late_switch.token_fraction", late->token_fraction(),
                {0, 1, /*min_allowed=*/false, /*max_allowed=*/false}, &errors_);
    }
  }

  // The defaults of each recipe, for models of any size.
  void DefaultHighPrecisionBlocks(v1::HighPrecisionBlocks* high) const {
    const int blocks = context_.blocks;
    const v1::NumberFormat format = FormatNamed(policy_.recipe());
    int first = 0, last = 0;
    if (IsFourBit(format)) {
      // 15 % of the blocks, rounded up, at the end, where range matters most (arXiv 2509.25149).
      last = (15 * blocks + 99) / 100;
    } else if (format == v1::FP8_BLOCKWISE && blocks >= 12) {
      // That paper's baseline; in a model where three blocks are at most a quarter.
      first = 1;
      last = 2;
    }
    if (!high->has_first()) high->set_first(first);
    if (!high->has_last()) {
      high->set_last(std::max(0, std::min(last, blocks - std::max(0, high->first()))));
    }
  }

  void ResolveHighPrecisionBlocks() {
    const int blocks = context_.blocks;
    v1::HighPrecisionBlocks* high = policy_.mutable_high_precision_blocks();
    const bool given = high->has_first() || high->has_last();
    const bool quantises = IsQuantised(FormatNamed(policy_.recipe()));
    if (high->format().empty()) high->set_format("bf16");
    const std::string path = "precision.high_precision_blocks";
    CheckOneOf(path + ".format", high->format(), {"bf16", "mxfp8"}, &errors_);
    if (quantises || given) DefaultHighPrecisionBlocks(high);
    if (blocks != 0 && (quantises || given)) {
      const bool first_good = CheckInteger(path + ".first", high->first(), {0, blocks}, &errors_);
      const bool last_good = CheckInteger(path + ".last", high->last(), {0, blocks}, &errors_);
      if (first_good && last_good && int64_t{high->first()} + high->last() > blocks) {
        errors_.Add(path, absl::StrCat("keeps ", high->first(), " + ", high->last(),
                                       " blocks; allowed: together at most the model's ", blocks));
      }
    }
    if (quantises) return;
    Ignore(high->first() != 0 || high->last() != 0, "high_precision_blocks");
    high->set_first(0);
    high->set_last(0);
  }

  // Says that a setting does nothing.
  void Ignore(bool set, const char* field) {
    if (!set) return;
    const bool quantises = Uses(&IsQuantised);
    warnings_.push_back(
        absl::StrCat("precision.", field, " has no effect: recipe ", policy_.recipe(),
                     quantises ? " and what the policy changes of it have no such operand"
                               : " quantises nothing"));
  }

  void ResolveFourBitOptions() {
    CheckNames("precision.hadamard_products", policy_.hadamard_products(), ProductNames());
    CheckNames("precision.stochastic_operands", policy_.stochastic_operands(), OperandPlaceNames());
    if (!Uses(&IsFourBit)) {
      Ignore(policy_.hadamard_size() != 0 || policy_.hadamard_products_size() > 0, "hadamard_size");
      Ignore(policy_.stochastic_rounding() || policy_.stochastic_operands_size() > 0,
             "stochastic_rounding");
      policy_.set_hadamard_size(0);
      policy_.clear_hadamard_products();
      policy_.set_stochastic_rounding(false);
      policy_.clear_stochastic_operands();
    } else {
      if (!policy_.has_hadamard_size()) policy_.set_hadamard_size(16);
      if (policy_.hadamard_products().empty()) policy_.add_hadamard_products("wgrad");
      if (!policy_.has_stochastic_rounding()) policy_.set_stochastic_rounding(true);
      if (policy_.stochastic_operands().empty()) {
        policy_.add_stochastic_operands("dgrad.gradient");
        policy_.add_stochastic_operands("wgrad.gradient");
      }
    }
    if (policy_.hadamard_signs().empty()) policy_.set_hadamard_signs("fixed");
    CheckOneOf("precision.hadamard_signs", policy_.hadamard_signs(),
               {"fixed", "none", "drawn", "redrawn"}, &errors_);
    if (!policy_.has_hadamard_seed()) {
      const bool random =
          policy_.hadamard_signs() == "drawn" || policy_.hadamard_signs() == "redrawn";
      policy_.set_hadamard_seed(random ? context_.seed : 0);
    }
  }

  void ResolveOtherOptions() {
    const auto is_nvfp4 = [](v1::NumberFormat format) { return format == v1::NVFP4; };
    const auto is_fp8 = [](v1::NumberFormat format) { return format == v1::FP8_E4M3; };
    if (policy_.has_weight_block_rows() && policy_.weight_block_rows() != 1 &&
        policy_.weight_block_rows() != 16) {
      errors_.Add("precision.weight_block_rows",
                  absl::StrCat("is ", policy_.weight_block_rows(), "; allowed: 1 or 16"));
    }
    if (policy_.four_over_six().empty()) policy_.set_four_over_six("none");
    CheckOneOf("precision.four_over_six", policy_.four_over_six(), {"none", "absolute", "squared"},
               &errors_);
    if (Uses(is_nvfp4)) {
      if (!policy_.has_weight_block_rows()) policy_.set_weight_block_rows(16);
      CheckFourOverSix();
    } else {
      Ignore(policy_.weight_block_rows() > 1, "weight_block_rows");
      Ignore(policy_.four_over_six() != "none", "four_over_six");
      policy_.set_weight_block_rows(1);
      policy_.set_four_over_six("none");
    }
    if (policy_.fp8_gradients().empty()) policy_.set_fp8_gradients("e4m3");
    CheckOneOf("precision.fp8_gradients", policy_.fp8_gradients(), {"e4m3", "e5m2"}, &errors_);
    if (!Uses(is_fp8)) {
      Ignore(policy_.fp8_gradients() != "e4m3", "fp8_gradients");
      policy_.set_fp8_gradients("e4m3");
    }
    if (!policy_.has_power_of_two_scales()) policy_.set_power_of_two_scales(true);
    if (!policy_.power_of_two_scales()) {
      errors_.Add("precision.power_of_two_scales",
                  "is false; allowed: true (FP32 scales need native FP8 products, which no backend "
                  "of this version has)");
    }
  }

  // It is for forward operands that are rounded to nearest as they are.
  void CheckFourOverSix() {
    if (policy_.four_over_six() == "none") return;
    const auto has = [](const auto& names, absl::string_view prefix) {
      return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
        return name.compare(0, prefix.size(), prefix.data(), prefix.size()) == 0;
      });
    };
    if (policy_.hadamard_size() != 0 && has(policy_.hadamard_products(), "fprop")) {
      errors_.Add("precision.four_over_six",
                  "is set, and fprop is among precision.hadamard_products; allowed: one of them");
    }
    if (policy_.stochastic_rounding() && has(policy_.stochastic_operands(), "fprop")) {
      errors_.Add("precision.four_over_six",
                  "is set, and a forward operand is among precision.stochastic_operands; allowed: "
                  "one of them");
    }
  }

  const PolicyContext& context_;
  v1::PrecisionPolicy& policy_;
  ErrorList& errors_;
  std::vector<std::string>& warnings_;
};

}  // namespace

void ResolvePolicy(const PolicyContext& context, v1::PrecisionPolicy* policy, ErrorList* errors,
                   std::vector<std::string>* warnings) {
  PolicyResolver(context, policy, errors, warnings).Run();
}

int64_t LateSwitchStep(const v1::PrecisionPolicy& policy, int64_t total_steps) {
  if (!policy.has_late_switch()) return 0;
  const v1::LateSwitch& late = policy.late_switch();
  if (late.has_step()) return late.step();
  // Every step has as many tokens as any other.
  return std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil(late.token_fraction() * static_cast<double>(total_steps))));
}

}  // namespace nibble::spec
