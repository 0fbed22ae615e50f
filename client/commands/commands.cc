#include "client/commands/commands.h"

namespace nibble::client {

std::vector<std::unique_ptr<Verb>> AllVerbs() {
  std::vector<std::unique_ptr<Verb>> verbs;
  for (const auto make : {MakeSubmitVerb,
                          MakeListVerb,
                          MakeGetVerb,
                          MakeWatchVerb,
                          MakeLogsVerb,
                          MakeMetricsVerb,
                          MakeCompareVerb,
                          MakeExperimentPaperVerb,
                          MakeExperimentReportVerb,
                          MakeExplainVerb,
                          MakePauseVerb,
                          MakeResumeVerb,
                          MakeCancelVerb,
                          MakeUpdateVerb,
                          MakeDeleteVerb,
                          MakeCheckpointsVerb,
                          MakeEventsVerb,
                          MakeWorkersVerb,
                          MakeWorkersDrainVerb,
                          MakeWorkersUndrainVerb,
                          MakeProjectsVerb,
                          MakeInfoVerb,
                          MakeBackupVerb,
                          MakeValidateVerb,
                          MakePresetsVerb,
                          MakeDataPrepareVerb,
                          MakeDataInspectVerb,
                          MakeDataTrainTokenizerVerb,
                          MakeImportVerb,
                          MakeExportVerb,
                          MakeGenerateVerb,
                          MakeEvaluateVerb,
                          MakeCompletionVerb,
                          MakeVersionVerb}) {
    verbs.push_back(make());
  }
  return verbs;
}

}  // namespace nibble::client
