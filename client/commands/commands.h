// All verbs. Each lives in the file that its factory is named after.
#ifndef CLIENT_COMMANDS_COMMANDS_H_
#define CLIENT_COMMANDS_COMMANDS_H_

#include <memory>
#include <vector>

#include "client/verb.h"

namespace nibble::client {

// In the order in which help lists them.
std::vector<std::unique_ptr<Verb>> AllVerbs();

std::unique_ptr<Verb> MakeSubmitVerb();
std::unique_ptr<Verb> MakeGetVerb();
std::unique_ptr<Verb> MakeListVerb();
std::unique_ptr<Verb> MakeWatchVerb();
std::unique_ptr<Verb> MakeLogsVerb();
std::unique_ptr<Verb> MakeMetricsVerb();
std::unique_ptr<Verb> MakeCompareVerb();
std::unique_ptr<Verb> MakeExperimentPaperVerb();
std::unique_ptr<Verb> MakeExperimentReportVerb();
std::unique_ptr<Verb> MakePauseVerb();
std::unique_ptr<Verb> MakeResumeVerb();
std::unique_ptr<Verb> MakeCancelVerb();
std::unique_ptr<Verb> MakeDeleteVerb();
std::unique_ptr<Verb> MakeCheckpointsVerb();
std::unique_ptr<Verb> MakeEventsVerb();
std::unique_ptr<Verb> MakeExplainVerb();
std::unique_ptr<Verb> MakeUpdateVerb();
std::unique_ptr<Verb> MakeWorkersVerb();
std::unique_ptr<Verb> MakeWorkersDrainVerb();    // commands/workers_drain.cc
std::unique_ptr<Verb> MakeWorkersUndrainVerb();  // there too
std::unique_ptr<Verb> MakeProjectsVerb();
std::unique_ptr<Verb> MakeBackupVerb();
std::unique_ptr<Verb> MakeInfoVerb();
std::unique_ptr<Verb> MakeValidateVerb();
std::unique_ptr<Verb> MakePresetsVerb();
std::unique_ptr<Verb> MakeDataPrepareVerb();
std::unique_ptr<Verb> MakeDataInspectVerb();
std::unique_ptr<Verb> MakeDataTrainTokenizerVerb();
std::unique_ptr<Verb> MakeImportVerb();
std::unique_ptr<Verb> MakeExportVerb();
std::unique_ptr<Verb> MakeGenerateVerb();
std::unique_ptr<Verb> MakeEvaluateVerb();
std::unique_ptr<Verb> MakeCompletionVerb();
std::unique_ptr<Verb> MakeVersionVerb();

}  // namespace nibble::client

#endif  // CLIENT_COMMANDS_COMMANDS_H_
