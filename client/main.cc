#include <csignal>
#include <cstdlib>

#include "base/clock.h"
#include "client/command_line.h"
#include "client/terminal.h"

int main(int argc, char** argv) {
  // `nibble ... | head` ends like other programs do; gRPC's sockets do not raise it.
  std::signal(SIGPIPE, SIG_DFL);
  // gRPC logs on standard error what a call's status says too. Whoever wants it sets the variable.
  ::setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  nibble::client::Terminal terminal = nibble::client::SystemTerminal();
  return nibble::client::RunCommandLine({argv + 1, argv + argc}, terminal, nibble::RealClock());
}
