#include "base/paths.h"

#include <cstdlib>

namespace nibble {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::string UnderXdg(const char* variable, const char* home_default, const char* rest) {
  std::string root = Environment(variable);
  if (root.empty()) root = Environment("HOME") + home_default;
  return root + rest;
}

}  // namespace

std::string DefaultDataDirectory() {
  const std::string direct = Environment("NIBBLE_DATA_DIR");
  return direct.empty() ? UnderXdg("XDG_DATA_HOME", "/.local/share", "/nibble/data") : direct;
}

std::string DefaultStateDirectory() {
  const std::string direct = Environment("NIBBLE_STATE_DIR");
  return direct.empty() ? UnderXdg("XDG_STATE_HOME", "/.local/state", "/nibble") : direct;
}

std::string DefaultConfigFile() {
  return UnderXdg("XDG_CONFIG_HOME", "/.config", "/nibble/config.yaml");
}

}  // namespace nibble
