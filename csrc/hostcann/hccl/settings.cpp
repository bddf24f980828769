#include "hostcann/hccl/settings.h"

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "hostcann/hccl/error.h"

namespace hostcann::hccl {
namespace {

std::chrono::seconds seconds_from(const char* variable, const char* text, int64_t least, int64_t most,
                                  int64_t otherwise) {
  if (text == nullptr) return std::chrono::seconds(otherwise);
  int64_t value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end || value < least || value > most) {
    throw Error(HCCL_E_PARA, std::string(variable) + "=" + text + " must be a number of seconds from " +
                                 std::to_string(least) + " to " + std::to_string(most));
  }
  return std::chrono::seconds(value);
}

size_t checked_size(const HcclCommConfig& config) {
  size_t size = 0;
  uint32_t magic = 0;
  std::memcpy(&size, config.reserved, sizeof(size));
  std::memcpy(&magic, config.reserved + sizeof(size), sizeof(magic));
  if (magic != HCCL_COMM_CONFIG_MAGIC_WORD || size < offsetof(HcclCommConfig, hcclUdi)) {
    throw Error(HCCL_E_PARA, "config was not set up by HcclCommConfigInit");
  }
  return size;
}

}  // namespace

Settings read_settings(const HcclCommConfig* config) {
  Settings settings{seconds_from("HCCL_CONNECT_TIMEOUT", std::getenv("HCCL_CONNECT_TIMEOUT"), 1, 7200, 120),
                    seconds_from("HCCL_EXEC_TIMEOUT", std::getenv("HCCL_EXEC_TIMEOUT"), 0, 2147483647, 1836),
                    {}};
  if (config == nullptr) return settings;
  const size_t size = checked_size(*config);
  if (config->hcclBufferSize == 0) throw Error(HCCL_E_PARA, "config.hcclBufferSize=0 must be at least 1 MiB");
  const uint32_t deterministic = config->hcclDeterministic;
  if (deterministic > 2 && deterministic != HCCL_COMM_DETERMINISTIC_CONFIG_NOT_SET) {
    throw Error(HCCL_E_PARA, "config.hcclDeterministic=" + std::to_string(deterministic) + " must be 0, 1 or 2");
  }
  if (strnlen(config->hcclCommName, COMM_NAME_MAX_LENGTH) == COMM_NAME_MAX_LENGTH) {
    throw Error(HCCL_E_PARA, "config.hcclCommName has no end within its 128 bytes");
  }
  settings.name = config->hcclCommName;
  if (size >= offsetof(HcclCommConfig, hcclAlgo) && config->hcclExecTimeOut != HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET) {
    if (config->hcclExecTimeOut < 0) {
      throw Error(HCCL_E_PARA,
                  "config.hcclExecTimeOut=" + std::to_string(config->hcclExecTimeOut) + " must not be negative");
    }
    settings.exec_timeout = std::chrono::seconds(config->hcclExecTimeOut);
  }
  return settings;
}

}  // namespace hostcann::hccl
