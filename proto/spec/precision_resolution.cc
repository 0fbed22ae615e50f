#include "proto/spec/precision_resolution.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/spec/deterministic_digest.h"
#include "proto/spec/field_checks.h"
#include "proto/spec/model_size.h"

namespace nibble::spec {
namespace {

// Elements that share an NVFP4 scale, and the only Hadamard size so far.
constexpr int kBlockElements = 16;
constexpr int kHadamardSize = 16;

bool Quantises(const v1::PrecisionPolicy& policy) { return policy.recipe() == "nvfp4"; }

v1::OperandPrecision Plain(v1::NumberFormat format) {
  v1::OperandPrecision operand;
  operand.set_format(format);
  operand.set_rounding(v1::NEAREST);
  return operand;
}

v1::OperandPrecision Nvfp4(int block_rows, int hadamard_size, v1::Rounding rounding) {
  v1::OperandPrecision operand;
  operand.set_format(v1::NVFP4);
  operand.set_block_rows(block_rows);
  operand.set_hadamard_size(hadamard_size);
  operand.set_rounding(rounding);
  return operand;
}

void SetAllOperands(const v1::OperandPrecision& operand, v1::LinearPrecision* row) {
  for (v1::ProductPrecision* product :
       {row->mutable_fprop(), row->mutable_dgrad(), row->mutable_wgrad()}) {
    *product->mutable_first() = operand;
    *product->mutable_second() = operand;
  }
}

// The table of docs/numerics.md section 5.
void SetNvfp4Operands(const v1::PrecisionPolicy& policy, v1::LinearPrecision* row) {
  const v1::Rounding gradients = policy.stochastic_rounding() ? v1::STOCHASTIC : v1::NEAREST;
  const int hadamard = policy.hadamard_size();
  const v1::OperandPrecision weight = Nvfp4(policy.weight_block_rows(), 0, v1::NEAREST);
  *row->mutable_fprop()->mutable_first() = Nvfp4(1, 0, v1::NEAREST);
  *row->mutable_fprop()->mutable_second() = weight;
  *row->mutable_dgrad()->mutable_first() = Nvfp4(1, 0, gradients);
  *row->mutable_dgrad()->mutable_second() = weight;
  *row->mutable_wgrad()->mutable_first() = Nvfp4(1, hadamard, gradients);
  *row->mutable_wgrad()->mutable_second() = Nvfp4(1, hadamard, v1::NEAREST);
}

// Why a layer's dimensions keep it from NVFP4; empty where they do not.
std::string ShapeObstacle(const LinearShape& linear) {
  if (linear.in_features % kBlockElements != 0) {
    return absl::StrCat("in_features ", linear.in_features, " is not a multiple of 16");
  }
  if (linear.out_features % kBlockElements != 0) {
    return absl::StrCat("out_features ", linear.out_features, " is not a multiple of 16");
  }
  return "";
}

// The weight gradient's blocks run along the tokens of a micro-batch.
std::string TokenObstacle(const v1::TrainingSpec& training) {
  const int64_t tokens = int64_t{training.micro_batch_size()} * training.sequence_length();
  if (tokens % kBlockElements == 0) return "";
  return absl::StrCat("a micro-batch has ", tokens, " tokens, not a multiple of 16");
}

std::string HighPrecisionNote(const v1::HighPrecisionBlocks& high, int blocks, int block) {
  if (block < high.first()) return absl::StrCat("kept in BF16: one of the first ", high.first());
  if (block >= blocks - high.last()) {
    return absl::StrCat("kept in BF16: one of the last ", high.last());
  }
  return "";
}

void ResolveHighPrecisionBlocks(int blocks, v1::PrecisionPolicy* policy, ErrorList* errors) {
  v1::HighPrecisionBlocks* high = policy->mutable_high_precision_blocks();
  const bool last_given = high->has_last();
  if (!high->has_first()) high->set_first(0);
  // 15 % of the blocks, rounded up, at the end, where range matters most (arXiv 2509.25149).
  if (!last_given)
    high->set_last(
        std::max(0, std::min((15 * blocks + 99) / 100, blocks - std::max(0, high->first()))));
  if (blocks == 0) return;
  const std::string path = "precision.high_precision_blocks";
  const bool first_good = CheckInteger(path + ".first", high->first(), {0, blocks}, errors);
  const bool last_good = CheckInteger(path + ".last", high->last(), {0, blocks}, errors);
  if (first_good && last_good && int64_t{high->first()} + high->last() > blocks) {
    errors->Add(path, absl::StrCat("keeps ", high->first(), " + ", high->last(),
                                   " blocks; allowed: together at most the model's ", blocks));
  }
}

// For recipes that quantise nothing: neutral values, and a word where something else was asked for.
void Neutralise(v1::PrecisionPolicy* policy, std::vector<std::string>* warnings) {
  const auto ignore = [&](bool set, const char* field) {
    if (!set) return;
    warnings->push_back(absl::StrCat("precision.", field, " has no effect: recipe ",
                                     policy->recipe(), " quantises nothing"));
  };
  ignore(
      policy->high_precision_blocks().first() != 0 || policy->high_precision_blocks().last() != 0,
      "high_precision_blocks");
  ignore(policy->hadamard_size() != 0, "hadamard_size");
  ignore(policy->stochastic_rounding(), "stochastic_rounding");
  ignore(policy->weight_block_rows() > 1, "weight_block_rows");
  policy->mutable_high_precision_blocks()->set_first(0);
  policy->mutable_high_precision_blocks()->set_last(0);
  policy->set_hadamard_size(0);
  policy->set_stochastic_rounding(false);
  policy->set_weight_block_rows(1);
}

}  // namespace

void ResolvePolicy(int blocks, v1::PrecisionPolicy* policy, ErrorList* errors,
                   std::vector<std::string>* warnings) {
  if (policy->version() > 1) {
    errors->Add("precision.version", absl::StrCat("is ", policy->version(), "; allowed: 1"));
  }
  policy->set_version(1);
  if (policy->recipe().empty()) policy->set_recipe("nvfp4");
  if (!CheckOneOf("precision.recipe", policy->recipe(), {"fp32", "bf16", "nvfp4"}, errors)) return;
  if (!policy->has_strict()) policy->set_strict(false);
  const auto zero_or_sixteen = [&](const char* field, int value, int other) {
    if (value == other || value == 16) return;
    errors->Add(absl::StrCat("precision.", field),
                absl::StrCat("is ", value, "; allowed: ", other, " or 16"));
  };
  if (policy->has_hadamard_size()) zero_or_sixteen("hadamard_size", policy->hadamard_size(), 0);
  if (policy->has_weight_block_rows()) {
    zero_or_sixteen("weight_block_rows", policy->weight_block_rows(), 1);
  }
  if (!Quantises(*policy)) {
    const v1::HighPrecisionBlocks& high = policy->high_precision_blocks();
    if (high.has_first() || high.has_last()) ResolveHighPrecisionBlocks(blocks, policy, errors);
    Neutralise(policy, warnings);
    return;
  }
  ResolveHighPrecisionBlocks(blocks, policy, errors);
  if (!policy->has_hadamard_size()) policy->set_hadamard_size(kHadamardSize);
  if (!policy->has_stochastic_rounding()) policy->set_stochastic_rounding(true);
  if (!policy->has_weight_block_rows()) policy->set_weight_block_rows(16);
}

v1::ResolvedPrecision ResolvePrecision(const v1::JobSpec& spec, ErrorList* errors) {
  const v1::PrecisionPolicy& policy = spec.precision();
  const int blocks = spec.model().blocks();
  const std::vector<LinearShape> linears = LinearsOf(spec.model());
  const std::string token_obstacle = TokenObstacle(spec.training());
  v1::ResolvedPrecision resolved;
  int quantised = 0;
  // Blocks are alike: a sentence for each kind of layer says it for all of them.
  std::vector<std::string> shape_warnings;
  for (const LinearShape& linear : linears) {
    v1::LinearPrecision* row = resolved.add_linears();
    row->set_layer(absl::StrCat("blocks.", linear.block, ".", linear.name));
    row->set_index(resolved.linears_size() - 1);
    row->set_in_features(linear.in_features);
    row->set_out_features(linear.out_features);
    if (!Quantises(policy)) {
      SetAllOperands(Plain(policy.recipe() == "fp32" ? v1::FP32 : v1::BF16), row);
      continue;
    }
    std::string note = HighPrecisionNote(policy.high_precision_blocks(), blocks, linear.block);
    const bool kept = !note.empty();
    if (!kept) note = token_obstacle.empty() ? ShapeObstacle(linear) : token_obstacle;
    if (note.empty()) {
      SetNvfp4Operands(policy, row);
      ++quantised;
      continue;
    }
    SetAllOperands(Plain(v1::BF16), row);
    row->set_note(kept ? note : absl::StrCat("BF16 instead of NVFP4: ", note));
    if (!kept && policy.strict()) errors->Add("precision.strict", row->layer() + ": " + note);
    if (kept) continue;
    const std::string warning =
        absl::StrCat("blocks.*.", linear.name, " runs in BF16 instead of NVFP4: ", note);
    if (std::find(shape_warnings.begin(), shape_warnings.end(), warning) == shape_warnings.end()) {
      shape_warnings.push_back(warning);
    }
  }
  if (Quantises(policy)) {
    const bool any_left =
        policy.high_precision_blocks().first() + policy.high_precision_blocks().last() < blocks;
    if (any_left && !token_obstacle.empty()) {
      resolved.add_warnings(
          absl::StrCat("all linear layers run in BF16 instead of NVFP4: ", token_obstacle));
    } else if (any_left) {
      for (std::string& warning : shape_warnings) resolved.add_warnings(std::move(warning));
    }
    if (quantised == 0) {
      resolved.add_warnings("recipe nvfp4 quantises nothing: every linear layer is in BF16");
    }
  }
  v1::ResolvedPrecision rows;
  *rows.mutable_linears() = resolved.linears();
  resolved.set_digest(DeterministicDigest(rows));
  return resolved;
}

}  // namespace nibble::spec
