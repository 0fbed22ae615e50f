// Bugs planted on purpose, by name: the simulator (tests/sim) has to find each of them.
//
//   if (!NIBBLE_PLANTED("terminal_rewritten") && IsTerminal(state)) return;
//
// They are in no program but the simulator's: everywhere else the macro is the constant false, and
// the compiler removes what hangs on it. docs/simulation.md has the list.
#ifndef BASE_PLANTED_H_
#define BASE_PLANTED_H_

#ifdef NIBBLE_PLANTED_BUGS
namespace nibble {
// Whether this is the bug that the simulator has switched on.
bool IsPlanted(const char* name);
}  // namespace nibble
#define NIBBLE_PLANTED(name) ::nibble::IsPlanted(name)
#else
#define NIBBLE_PLANTED(name) false
#endif

#endif  // BASE_PLANTED_H_
