// A job as people read it.
#ifndef CLIENT_JOB_VIEW_H_
#define CLIENT_JOB_VIEW_H_

#include <string>

#include "client/scores.h"
#include "client/session.h"
#include "client/table.h"
#include "nibble/v1/job.pb.h"

namespace nibble::client {

// The state, coloured by what it means for the user.
std::string PaintState(const Terminal& terminal, v1::JobState state);

// "120/600 (20 %)"; "-" before the number of steps is known.
std::string ProgressText(const v1::Job& job);

// "llama, 4 blocks, width 192, ..." and "2.0M parameters".
std::string ModelText(const v1::JobSpec& spec, int64_t parameters);
// "600 steps of 8 x 256 tokens"; of a job that trains nothing, what it scores.
std::string TrainingText(const v1::JobSpec& spec, int64_t total_steps);
// "hellaswag, text after every 100 steps and at the end"; empty: no evaluation.
std::string EvaluationText(const v1::EvaluationSpec& evaluation, int64_t total_steps);
// "nvfp4: 14 of 16 linear layers quantised; 14 change at step 82".
std::string PrecisionText(const v1::JobSpec& spec, const v1::ResolvedPrecision& precision);

// Everything that `nibble get` shows.
void PrintJob(Session& session, const v1::Job& job);

// Prints a job in the session's format, with what it scored as "evaluation".
void ShowJob(Session& session, const v1::Job& job, const Scores& scores = {});

// What a job trains on, in one line.
std::string DataText(const v1::DataSpec& data);

}  // namespace nibble::client

#endif  // CLIENT_JOB_VIEW_H_
