// Default places of a user's nibble files, after the XDG base directory specification.
#ifndef BASE_PATHS_H_
#define BASE_PATHS_H_

#include <string>

namespace nibble {

// Where relative `data.path` values are looked up and `nibble data prepare` writes:
// $NIBBLE_DATA_DIR, else $XDG_DATA_HOME/nibble/data, else ~/.local/share/nibble/data.
std::string DefaultDataDirectory();

// State of a daemon: $NIBBLE_STATE_DIR, else $XDG_STATE_HOME/nibble, else ~/.local/state/nibble.
std::string DefaultStateDirectory();

// Configuration of the command line: $XDG_CONFIG_HOME/nibble/config.yaml, else
// ~/.config/nibble/config.yaml.
std::string DefaultConfigFile();

}  // namespace nibble

#endif  // BASE_PATHS_H_
