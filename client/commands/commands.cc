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
                          MakePauseVerb,
                          MakeResumeVerb,
                          MakeCancelVerb,
                          MakeDeleteVerb,
                          MakeCheckpointsVerb,
                          MakeEventsVerb,
                          MakeWorkersVerb,
                          MakeInfoVerb,
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
