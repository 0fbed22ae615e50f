// Stacks of all threads of this process on standard error, on SIGUSR1: what a worker asks of a
// trainer that makes no progress.
#ifndef WORKER_STACK_DUMP_H_
#define WORKER_STACK_DUMP_H_

namespace nibble::worker {

// Once, at the start of main, before other threads. Takes SIGUSR1 and SIGUSR2. The dump allocates
// nothing, takes no lock and changes nothing: a thread that hangs in a lock or in the kernel (so
// long as that can be interrupted) is shown like any other; one that does not answer is named.
void DumpStacksOnSignal(const char* program);

}  // namespace nibble::worker

#endif  // WORKER_STACK_DUMP_H_
