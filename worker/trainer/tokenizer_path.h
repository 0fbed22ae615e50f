// Which tokenizer belongs to a run.
#ifndef WORKER_TRAINER_TOKENIZER_PATH_H_
#define WORKER_TRAINER_TOKENIZER_PATH_H_

#include <string>

#include "worker/trainer/training_config.h"

namespace nibble::trainer {

// As data::LoadTokenizer takes it, the first of: what the training data was prepared with, where it
// is a nibble dataset; config.evaluation.tokenizer; what the checkpoint config.init_from carries;
// "bytes" for a vocabulary of 256. Empty: none of these.
std::string TokenizerOfRun(const TrainingConfig& config);

// The same, but config.evaluation.tokenizer first.
std::string TokenizerOfEvaluation(const TrainingConfig& config);

}  // namespace nibble::trainer

#endif  // WORKER_TRAINER_TOKENIZER_PATH_H_
