// What a spec may ask for. One place; docs/job_spec.md repeats it for readers.
#ifndef PROTO_SPEC_LIMITS_H_
#define PROTO_SPEC_LIMITS_H_

#include <cstdint>

namespace nibble::spec {

inline constexpr int kMaxNameBytes = 63;
inline constexpr int kMaxLabels = 32;
inline constexpr int kMaxLabelBytes = 63;
inline constexpr int kMaxPathBytes = 4096;
inline constexpr int kMaxPathComponentBytes = 255;
inline constexpr int32_t kMaxPriority = 1000;

inline constexpr int32_t kMaxVocabSize = 1 << 20;
inline constexpr int32_t kMaxWidth = 1 << 16;
// Keeps the resolved precision policy, four rows a block, within a 256 KiB message.
inline constexpr int32_t kMaxBlocks = 256;
inline constexpr int32_t kMaxHeads = 1024;
inline constexpr int32_t kMaxHeadSize = 1024;
inline constexpr int32_t kMaxMlpWidth = 1 << 18;
inline constexpr int32_t kMaxPositions = 1 << 20;
inline constexpr int32_t kMaxMambaExpand = 16;
inline constexpr int32_t kMaxMambaStateSize = 1024;
inline constexpr int32_t kMaxMambaConvWidth = 8;
inline constexpr int32_t kMaxMambaChunkSize = 1024;
inline constexpr int64_t kMaxParameters = int64_t{1} << 40;

inline constexpr int kMaxDataSources = 64;  // over all phases
inline constexpr int kMaxDataPhases = 16;

// The step is a 32-bit word of the stochastic-rounding counter.
inline constexpr int64_t kMaxSteps = 1'000'000'000;
inline constexpr int64_t kMaxTokens = 1'000'000'000'000'000;
inline constexpr int32_t kMaxSequenceLength = 1 << 20;
inline constexpr int32_t kMaxBatchSize = 1 << 16;
inline constexpr int64_t kMaxTokensPerStep = int64_t{1} << 30;
inline constexpr int64_t kMaxValidationSequences = 1'000'000'000;

inline constexpr int kMaxEvaluationTasks = 32;
inline constexpr int kMaxEvaluationNameBytes = 32;
inline constexpr int64_t kMaxEvaluationItems = 1'000'000'000;

inline constexpr int kMaxPrecisionOverrides = 64;
inline constexpr int kMaxLayerPatternBytes = 128;
inline constexpr int kMaxDecayPatterns = 64;
inline constexpr int kMaxPatternBytes = 256;

inline constexpr int32_t kMaxCheckpointsKept = 1000;
inline constexpr double kMaxSnapshotSeconds = 86'400;
// Losses and gradient norms of a window are part of a checkpoint's manifest.
inline constexpr int32_t kMinSafetyWindow = 8;
inline constexpr int32_t kMaxSafetyWindow = 512;
inline constexpr double kMaxSafetyThreshold = 1e6;
inline constexpr int32_t kMaxRollbacks = 1000;
inline constexpr double kMaxHangSeconds = 86'400;
inline constexpr int32_t kMaxThreads = 1024;
inline constexpr int32_t kMaxFailures = 1000;
inline constexpr int32_t kMaxSlots = 1 << 16;
inline constexpr int64_t kMaxRunTimeSeconds = 10LL * 365 * 24 * 3600;
inline constexpr int64_t kMaxSlotMemoryBytes = int64_t{1} << 50;

}  // namespace nibble::spec

#endif  // PROTO_SPEC_LIMITS_H_
