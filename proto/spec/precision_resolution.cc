// The rows of a resolved precision.
#include "proto/spec/precision_resolution.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/spec/deterministic_digest.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/model_size.h"
#include "proto/spec/precision_formats.h"

namespace nibble::spec {
namespace {

template <class Names>
bool Contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// No name means all.
template <class Names>
bool Selects(const Names& names, const std::string& name) {
  return names.empty() || Contains(names, name);
}

v1::OperandPrecision Plain(v1::NumberFormat format) {
  v1::OperandPrecision operand;
  operand.set_format(format);
  operand.set_rounding(v1::NEAREST);
  return operand;
}

v1::HadamardSigns SignsOf(const v1::PrecisionPolicy& policy) {
  return policy.hadamard_signs() == "none"      ? v1::HADAMARD_SIGNS_NONE
         : policy.hadamard_signs() == "drawn"   ? v1::HADAMARD_SIGNS_DRAWN
         : policy.hadamard_signs() == "redrawn" ? v1::HADAMARD_SIGNS_REDRAWN
                                                : v1::HADAMARD_SIGNS_FIXED;
}

void SetHadamard(const v1::PrecisionPolicy& policy, int size, v1::OperandPrecision* operand) {
  operand->set_hadamard_size(size);
  const v1::HadamardSigns signs = size == 0 ? v1::HADAMARD_SIGNS_FIXED : SignsOf(policy);
  const bool random = signs == v1::HADAMARD_SIGNS_DRAWN || signs == v1::HADAMARD_SIGNS_REDRAWN;
  operand->set_hadamard_signs(signs);
  operand->set_hadamard_seed(random ? policy.hadamard_seed() : 0);
}

// The table of docs/numerics.md section 5 with the policy's options, for any format.
v1::OperandPrecision OperandIn(v1::NumberFormat format, const OperandPlace& place,
                               const v1::PrecisionPolicy& policy) {
  const bool weight = place.role == Role::kWeight;
  v1::OperandPrecision operand = Plain(format);
  if (format == v1::FP8_E4M3 && place.role == Role::kGradient && policy.fp8_gradients() == "e5m2") {
    operand.set_format(v1::FP8_E5M2);
  }
  if (BlockSize(format) != 0) operand.set_block_rows(1);
  if (format == v1::FP8_BLOCKWISE && weight) operand.set_block_rows(128);
  if (!IsFourBit(format)) return operand;
  if (Contains(policy.hadamard_products(), NameOf(place.product))) {
    SetHadamard(policy, policy.hadamard_size(), &operand);
  }
  if (policy.stochastic_rounding() && Contains(policy.stochastic_operands(), NameOf(place))) {
    operand.set_rounding(v1::STOCHASTIC);
  }
  if (format != v1::NVFP4) return operand;
  if (weight) operand.set_block_rows(policy.weight_block_rows());
  // Forward operands, and the weight's tiles where the backward pass shares them.
  const bool shared = place.product == Product::kDgrad && weight && operand.block_rows() == 16;
  if (place.product == Product::kFprop || shared) {
    operand.set_block_target(policy.four_over_six() == "absolute"  ? v1::FOUR_OR_SIX_ABSOLUTE
                             : policy.four_over_six() == "squared" ? v1::FOUR_OR_SIX_SQUARED
                                                                   : v1::BLOCK_TARGET_SIX);
  }
  return operand;
}

void SetAll(v1::NumberFormat format, const v1::PrecisionPolicy& policy, v1::LinearPrecision* row) {
  for (const OperandPlace& place : OperandPlaces()) {
    *MutableOperand(place, row) = OperandIn(format, place, policy);
  }
}

// What the operands of a row must have in common.
void Reconcile(const v1::PrecisionPolicy& policy, v1::LinearPrecision* row) {
  for (Product which : {Product::kFprop, Product::kDgrad, Product::kWgrad}) {
    v1::ProductPrecision* product = MutableProduct(which, row);
    v1::OperandPrecision* both[] = {product->mutable_first(), product->mutable_second()};
    // A transform cancels only where both operands have it, and BF16 takes none.
    int size = std::max(both[0]->hadamard_size(), both[1]->hadamard_size());
    if (!IsQuantised(both[0]->format()) || !IsQuantised(both[1]->format())) size = 0;
    for (v1::OperandPrecision* operand : both) {
      SetHadamard(policy, size, operand);
      if (size != 0 || operand->rounding() == v1::STOCHASTIC) {
        operand->set_block_target(v1::BLOCK_TARGET_SIX);
      }
    }
  }
  v1::OperandPrecision* transposed = row->mutable_dgrad()->mutable_second();
  const v1::OperandPrecision& weight = row->fprop().second();
  if (transposed->block_target() != v1::BLOCK_TARGET_SIX &&
      transposed->SerializeAsString() != weight.SerializeAsString()) {
    transposed->set_block_target(v1::BLOCK_TARGET_SIX);
  }
}

v1::NumberFormat QuantisedFormatOf(v1::LinearPrecision row) {
  for (const OperandPlace& place : OperandPlaces()) {
    const v1::NumberFormat format = MutableOperand(place, &row)->format();
    if (IsQuantised(format)) return format;
  }
  return v1::NUMBER_FORMAT_UNSPECIFIED;
}

class PrecisionResolver {
 public:
  PrecisionResolver(const v1::JobSpec& spec, int64_t total_steps, ErrorList* errors)
      : policy_(spec.precision()),
        blocks_(spec.model().blocks()),
        linears_(LinearsOf(spec.model())),
        tokens_(int64_t{spec.training().micro_batch_size()} * spec.training().sequence_length()),
        switch_step_(LateSwitchStep(spec.precision(), total_steps)),
        total_steps_(total_steps),
        errors_(*errors) {}

  v1::ResolvedPrecision Run() {
    CheckOverridesMatch();
    for (size_t i = 0; i < linears_.size(); ++i) AddRow(static_cast<int>(i));
    if (late_.linears_size() > 0) {
      late_.set_first_step(switch_step_);
      *resolved_.add_later() = late_;
    }
    Warn();
    v1::ResolvedPrecision rows;
    *rows.mutable_linears() = resolved_.linears();
    *rows.mutable_later() = resolved_.later();
    resolved_.set_digest(DeterministicDigest(rows));
    return std::move(resolved_);
  }

 private:
  v1::NumberFormat recipe() const { return FormatNamed(policy_.recipe()); }
  // What a layer has that cannot be quantised.
  v1::NumberFormat fallback() const { return recipe() == v1::FP32 ? v1::FP32 : v1::BF16; }

  std::string LayerName(const LinearShape& linear) const {
    return absl::StrCat("blocks.", linear.block, ".", linear.name);
  }

  void CheckOverridesMatch() {
    for (int i = 0; i < policy_.overrides_size(); ++i) {
      const std::string& layers = policy_.overrides(i).layers();
      const bool matches = std::any_of(
          linears_.begin(), linears_.end(),
          [&](const LinearShape& linear) { return MatchesGlob(layers, LayerName(linear)); });
      if (matches) continue;
      errors_.Add(absl::StrCat("precision.overrides[", i, "].layers"),
                  absl::StrCat("is ", QuoteForError(layers),
                               ", which matches no layer; allowed: names from ",
                               LayerName(linears_.front()), " to ", LayerName(linears_.back()),
                               ", with * and ?"));
    }
  }

  std::string KeptNote(int block) const {
    const v1::HighPrecisionBlocks& high = policy_.high_precision_blocks();
    const std::string format = v1::NumberFormat_Name(FormatNamed(high.format()));
    if (block < high.first()) {
      return absl::StrCat("kept in ", format, ": one of the first ", high.first());
    }
    if (block >= blocks_ - high.last()) {
      return absl::StrCat("kept in ", format, ": one of the last ", high.last());
    }
    return "";
  }

  void AddRow(int index) {
    const LinearShape& linear = linears_[index];
    v1::LinearPrecision row;
    row.set_layer(LayerName(linear));
    row.set_index(index);
    row.set_in_features(linear.in_features);
    row.set_out_features(linear.out_features);
    row.set_note(KeptNote(linear.block));
    const bool kept = !row.note().empty();
    SetAll(kept ? FormatNamed(policy_.high_precision_blocks().format()) : recipe(), policy_, &row);
    for (int i = 0; i < policy_.overrides_size(); ++i) ApplyOverride(i, &row);
    v1::LinearPrecision late = row;
    Finish(linear, &row);
    if (!kept && QuantisedFormatOf(row) != v1::NUMBER_FORMAT_UNSPECIFIED) ++quantised_;
    *resolved_.add_linears() = row;
    if (switch_step_ == 0 || kept || switch_step_ >= total_steps_) return;
    const std::string& passes = policy_.late_switch().passes();
    for (const OperandPlace& place : OperandPlaces()) {
      const bool forward = place.product == Product::kFprop;
      if (passes != "both" && forward != (passes == "forward")) continue;
      *MutableOperand(place, &late) =
          OperandIn(FormatNamed(policy_.late_switch().recipe()), place, policy_);
    }
    Finish(linear, &late);
    if (late.SerializeAsString() == row.SerializeAsString()) return;
    late.clear_in_features();
    late.clear_out_features();
    *late_.add_linears() = late;
  }

  void ApplyOverride(int index, v1::LinearPrecision* row) {
    const v1::PrecisionOverride& change = policy_.overrides(index);
    if (!MatchesGlob(change.layers(), row->layer())) return;
    for (const OperandPlace& place : OperandPlaces()) {
      if (!Selects(change.products(), NameOf(place.product)) ||
          !Selects(change.operands(), NameOf(place.role))) {
        continue;
      }
      v1::OperandPrecision* operand = MutableOperand(place, row);
      if (!change.format().empty()) {
        *operand = OperandIn(FormatNamed(change.format()), place, policy_);
      }
      if (!IsQuantised(operand->format())) continue;
      if (change.has_hadamard_size()) {
        // Of a product, not of one operand.
        v1::ProductPrecision* product = MutableProduct(place.product, row);
        SetHadamard(policy_, change.hadamard_size(), product->mutable_first());
        SetHadamard(policy_, change.hadamard_size(), product->mutable_second());
      }
      SetBlockRows(index, operand);
      SetRounding(index, operand);
    }
    row->clear_note();
  }

  void SetBlockRows(int index, v1::OperandPrecision* operand) {
    const v1::PrecisionOverride& change = policy_.overrides(index);
    if (!change.has_block_rows()) return;
    const v1::NumberFormat format = operand->format();
    const bool tiles = format == v1::NVFP4 || format == v1::FP8_BLOCKWISE;
    if (change.block_rows() == 1 || (tiles && change.block_rows() == BlockSize(format))) {
      if (BlockSize(format) != 0) operand->set_block_rows(change.block_rows());
      return;
    }
    AddOnce(absl::StrCat("precision.overrides[", index, "].block_rows"),
            absl::StrCat("is ", change.block_rows(), " for an operand in ", NameOf(format),
                         "; allowed: 1",
                         tiles ? absl::StrCat(" or ", BlockSize(format)) : std::string()));
  }

  void SetRounding(int index, v1::OperandPrecision* operand) {
    const v1::PrecisionOverride& change = policy_.overrides(index);
    if (change.rounding().empty()) return;
    if (change.rounding() == "stochastic" && !IsFourBit(operand->format())) {
      AddOnce(absl::StrCat("precision.overrides[", index, "].rounding"),
              absl::StrCat("is \"stochastic\" for an operand in ", NameOf(operand->format()),
                           "; allowed: nearest, or stochastic for nvfp4 and mxfp4"));
      return;
    }
    operand->set_rounding(change.rounding() == "stochastic" ? v1::STOCHASTIC : v1::NEAREST);
  }

  // The same field of many layers.
  void AddOnce(const std::string& field, const std::string& description) {
    if (!Contains(reported_, field)) errors_.Add(field, description);
    reported_.push_back(field);
  }

  // What keeps a row from being quantised: a dimension that is no multiple of 16, of what a format
  // needs along the dot product, or of a Hadamard size.
  std::string Obstacle(const LinearShape& linear, v1::LinearPrecision row, bool* of_tokens) const {
    int64_t unit[] = {16, 16, 16};  // of in_features, out_features, tokens: fprop, dgrad, wgrad
    for (const OperandPlace& place : OperandPlaces()) {
      const v1::OperandPrecision& operand = *MutableOperand(place, &row);
      int64_t& needed = unit[static_cast<int>(place.product)];
      needed =
          std::max<int64_t>({needed, DimensionUnit(operand.format()), operand.hadamard_size()});
    }
    *of_tokens = tokens_ % unit[2] != 0;
    if (*of_tokens) {
      return absl::StrCat("a micro-batch has ", tokens_, " tokens, not a multiple of ", unit[2]);
    }
    if (linear.in_features % unit[0] != 0) {
      return absl::StrCat("in_features ", linear.in_features, " is not a multiple of ", unit[0]);
    }
    if (linear.out_features % unit[1] != 0) {
      return absl::StrCat("out_features ", linear.out_features, " is not a multiple of ", unit[1]);
    }
    return "";
  }

  void Finish(const LinearShape& linear, v1::LinearPrecision* row) {
    Reconcile(policy_, row);
    const v1::NumberFormat format = QuantisedFormatOf(*row);
    if (format == v1::NUMBER_FORMAT_UNSPECIFIED) return;
    bool of_tokens = false;
    const std::string obstacle = Obstacle(linear, *row, &of_tokens);
    if (obstacle.empty()) return;
    const std::string instead = absl::StrCat(v1::NumberFormat_Name(fallback()), " instead of ",
                                             v1::NumberFormat_Name(format), ": ", obstacle);
    SetAll(fallback(), policy_, row);
    row->set_note(instead);
    if (policy_.strict()) AddOnce("precision.strict", row->layer() + ": " + obstacle);
    const std::string who = of_tokens && IsQuantised(recipe())
                                ? "all linear layers run in "
                                : absl::StrCat("blocks.*.", linear.name, " runs in ");
    if (!Contains(warnings_, who + instead)) warnings_.push_back(who + instead);
  }

  void Warn() {
    for (const std::string& warning : warnings_) resolved_.add_warnings(warning);
    if (IsQuantised(recipe()) && quantised_ == 0) {
      resolved_.add_warnings(absl::StrCat("recipe ", policy_.recipe(),
                                          " quantises nothing: every linear layer is in BF16"));
    }
    if (policy_.has_late_switch() && resolved_.later().empty()) {
      resolved_.add_warnings("precision.late_switch changes nothing");
    }
  }

  const v1::PrecisionPolicy& policy_;
  const int blocks_;
  const std::vector<LinearShape> linears_;
  const int64_t tokens_;  // of a micro-batch
  const int64_t switch_step_;
  const int64_t total_steps_;
  ErrorList& errors_;
  v1::ResolvedPrecision resolved_;
  v1::PrecisionPhase late_;
  std::vector<std::string> warnings_, reported_;
  int quantised_ = 0;
};

}  // namespace

v1::ResolvedPrecision ResolvePrecision(const v1::JobSpec& spec, int64_t total_steps,
                                       ErrorList* errors) {
  return PrecisionResolver(spec, total_steps, errors).Run();
}

}  // namespace nibble::spec
